// before anything is drawn: no flash of the other theme
document.documentElement.classList.replace("no-js", "js");
try {
  const theme = localStorage.getItem("reddiff-theme");
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
} catch { /* storage may be shut off */ }
