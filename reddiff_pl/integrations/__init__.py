"""The method in the terms of other libraries."""
