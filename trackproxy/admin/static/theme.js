// The theme that was chosen last, set before anything is painted. See appearance.js.
try {
  const chosen = localStorage.getItem("trackproxy-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // No storage: the system's theme.
}
