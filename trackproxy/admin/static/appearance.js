// Light, dark or as the system has it; kept in localStorage.

const KEY = "trackproxy-theme";
const NEXT = { system: "light", light: "dark", dark: "system" };

/** Let BUTTON go round the themes; CHANGED is called after each change, the system's too. */
export function offerThemes(button, changed) {
  const show = () => {
    button.textContent = `Theme: ${chosen()}`;
    changed();
  };
  button.addEventListener("click", () => {
    choose(NEXT[chosen()]);
    show();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
  show();
}

function chosen() {
  return document.documentElement.dataset.theme ?? "system";
}

function choose(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem(KEY, theme);
  } catch {
    // No storage: it lasts as long as the page.
  }
}
