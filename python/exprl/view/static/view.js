// Keys, live pages, and links that change a part of a page without losing the reader's place. Every
// page works without this file: each state is a link, and each control leads to one.
"use strict";

(() => {
  const LIVE_MS = 2000;
  const $ = (selector, within = document) => within.querySelector(selector);
  const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];

  // -- replacing <main> by that of another state ------------------------------------------------

  let asked = 0;
  let shown = state(location);

  function state(url) {
    return url.pathname + url.search;
  }

  async function load(url) {
    const answer = await fetch(url, { headers: { Accept: "text/html" } });
    if (!answer.ok) throw new Error(`${answer.status}`);
    // A parsed document runs no scripts, and what is taken out of it runs none either.
    return new DOMParser().parseFromString(await answer.text(), "text/html");
  }

  async function show(url) {
    const turn = ++asked;
    shown = state(new URL(url, location));
    let next;
    try {
      next = await load(url);
    } catch {
      location.assign(url); // the browser shows what went wrong
      return;
    }
    if (turn !== asked) return; // the reader has gone on
    const focused = document.activeElement?.id;
    document.title = next.title;
    for (const selector of ["header.top .state", "header.top .crumbs", "main"]) {
      const [old, fresh] = [$(selector), $(selector, next)];
      if (old && fresh) old.replaceWith(document.adoptNode(fresh));
    }
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
    settle();
  }

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-swap]");
    const plain = !(event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey);
    if (!link || !plain) return;
    event.preventDefault();
    const url = new URL(link.href);
    history.pushState(null, "", url);
    show(url);
  });
  addEventListener("popstate", () => {
    if (state(location) !== shown) show(location.href); // and not for a step's #s3
  });

  // What the reader has folded stays so; on a narrow page what stands beside the steps begins folded.
  const folded = new Map();

  function settle() {
    for (const details of $$("details[id]")) {
      const narrow = innerWidth <= 900 && "narrow" in details.dataset;
      details.open = folded.get(details.id) ?? !narrow;
    }
    tellAges();
  }
  document.addEventListener("click", (event) => {
    const details = event.target.closest("summary")?.parentElement;
    if (details?.id) folded.set(details.id, !details.open);
  });

  // -- live: the server says when the run has more to show --------------------------------------

  async function look() {
    const selecting = !getSelection().isCollapsed || $("dialog[open]");
    if (!document.hidden && !selecting) {
      try {
        const answer = await fetch("live");
        const now = answer.ok ? await answer.json() : null;
        document.body.classList.toggle("lost", !now);
        if ($("main").dataset.soon) await show(location.href); // the ledger is being indexed
        else if (now && now.stamp !== $("main").dataset.stamp) await refresh(now.stamp);
      } catch {
        document.body.classList.add("lost"); // the viewer was ended, or is busy
      }
    }
    setTimeout(look, LIVE_MS);
  }

  async function refresh(stamp) {
    const follows = $("main").dataset.live === "follow";
    if (follows) return typing() ? undefined : show(location.href); // later, then
    const next = await load(location.href); // the page stays; only its header tells the news
    $("header.top .state").replaceWith(document.adoptNode($("header.top .state", next)));
    $("main").dataset.stamp = stamp;
    tellAges();
  }

  function tellAges() {
    for (const time of $$("time[datetime]")) {
      const seconds = Math.max(0, (Date.now() - Date.parse(time.dateTime)) / 1000);
      const [value, unit] =
        seconds < 90 ? [seconds, "s"] : seconds < 5400 ? [seconds / 60, "min"]
        : seconds < 129600 ? [seconds / 3600, "h"] : [seconds / 86400, "days"];
      time.textContent = `${Math.round(value)} ${unit} ago`;
    }
  }

  // -- keys --------------------------------------------------------------------------------------

  const typing = () => /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement?.tagName ?? "");

  function move(by) {
    const items = $$("main [data-item]");
    if (!items.length) return;
    const here = document.activeElement?.closest("[data-item]");
    const first = items.findIndex((item) => item.getBoundingClientRect().bottom > 80);
    const at = here ? items.indexOf(here) + by : Math.max(0, by > 0 ? first : first - 1);
    const item = items[Math.min(items.length - 1, Math.max(0, at))];
    item.focus({ preventScroll: true });
    item.scrollIntoView({ block: "nearest" });
    if (item.id) history.replaceState(null, "", `#${item.id}`);
  }

  function openKeys() {
    const dialog = $("dialog.keys");
    const rows = [["j  k", "next, previous on this page"], ["Enter", "open it"]];
    for (const link of $$("[data-key]")) rows.push([link.dataset.key, link.title || link.textContent.trim()]);
    rows.push(["t", "light or dark"], ["?", "these keys"]);
    $("dl", dialog).replaceChildren(
      ...rows.flatMap(([key, says]) => {
        const [dt, dd, kbd] = ["dt", "dd", "kbd"].map((name) => document.createElement(name));
        kbd.textContent = key;
        dt.append(kbd);
        dd.textContent = says;
        return [dt, dd];
      }),
    );
    dialog.showModal();
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || typing() || $("dialog[open]")) return;
    const { key } = event;
    const link = /^[a-z[\]]$/.test(key) && $(`[data-key="${key}"]`);
    if (key === "j" || key === "k") move(key === "j" ? 1 : -1);
    else if (key === "t") $("button.theme").click();
    else if (key === "?") openKeys();
    else if (key === "Enter" && document.activeElement?.matches("[data-item]:not(a)"))
      $("a[data-open]", document.activeElement)?.click();
    else if (link) link.click();
    else return;
    event.preventDefault();
  });

  // -- tokens: what the one under the pointer is -------------------------------------------------

  function tellToken(event) {
    const token = event.target.closest?.(".token");
    const line = $(".token-line");
    if (token && line) line.textContent = token.title;
  }
  document.addEventListener("pointerover", tellToken);
  document.addEventListener("click", tellToken);

  // ----------------------------------------------------------------------------------------------

  document.addEventListener("click", (event) => {
    if (event.target.closest("button.show-keys")) openKeys();
  });
  document.addEventListener("change", (event) => {
    if (event.target.closest("form[data-auto]")) event.target.form.requestSubmit();
  });
  settle();
  setInterval(tellAges, 5000);
  setTimeout(look, LIVE_MS);
})();
