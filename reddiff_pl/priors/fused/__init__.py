"""The forward pass of diffusers' UNets on CUDA, in few passes over memory and few launches."""
