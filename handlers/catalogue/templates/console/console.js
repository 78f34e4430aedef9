// Keeps the overview up to date while somebody looks at it, and takes nothing away that they are using.
"use strict";

(() => {
  const EVERY = 5000; // ms
  const ANSWERS = 10000;

  const place = document.querySelector("[data-live]");
  const says = document.querySelector("[data-says]");
  if (!place) return;
  let isAsking = false;
  setInterval(ask, EVERY);
  document.addEventListener("visibilitychange", ask);

  async function ask() {
    if (document.hidden || isAsking || isInUse()) return;
    isAsking = true;
    const stop = new AbortController();
    const giveUp = setTimeout(() => stop.abort(), ANSWERS);
    try {
      const answer = await fetch(place.dataset.live, { cache: "no-store", redirect: "error", signal: stop.signal });
      if (answer.ok && !isInUse()) show(await answer.text());
    } catch {
      // Nothing new: signed out, or web is away.
    } finally {
      clearTimeout(giveUp);
      isAsking = false;
    }
  }

  function show(text) {
    if (isInUse()) return;
    const before = findings();
    place.innerHTML = text;
    if (findings() !== before) {
      says.textContent = document.querySelector("template[data-changed]").content.textContent.trim();
    } else {
      says.textContent = "";
    }
  }

  function isInUse() {
    return place.contains(document.activeElement) || place.querySelector("details[open]") || !getSelection().isCollapsed;
  }

  function findings() {
    const list = place.querySelector(".findings");
    return list ? Array.from(list.querySelectorAll("strong"), (one) => one.textContent).join() : "";
  }
})();
