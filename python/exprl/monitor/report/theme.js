// The theme of a page: the reader's system chooses it, until the button does. Loaded in <head>, so
// that no page is painted in the other theme first.
"use strict";

(() => {
  const root = document.documentElement;
  const KEY = "exprl-theme";

  function remembered() {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null; // a page from disk may have no storage
    }
  }

  function remember(theme) {
    try {
      localStorage.setItem(KEY, theme);
    } catch {
      // then the choice holds for this page only
    }
  }

  function isDark() {
    const chosen = root.dataset.theme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  }

  const theme = remembered();
  if (theme === "light" || theme === "dark") root.dataset.theme = theme;

  // `exprl-theme` tells what is drawn in colours of its own, such as charts, to be drawn anew.
  const tell = () => dispatchEvent(new Event("exprl-theme"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", tell);

  addEventListener("DOMContentLoaded", () => {
    for (const button of document.querySelectorAll("button.theme")) {
      button.addEventListener("click", () => {
        root.dataset.theme = isDark() ? "light" : "dark";
        remember(root.dataset.theme);
        tell();
      });
    }
  });
})();
