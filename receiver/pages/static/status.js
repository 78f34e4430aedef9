// Asks for the status until it is another one, and then loads the page that shows it.
"use strict";

(() => {
  const FIRST = 2000; // ms between two questions, and more the longer it takes
  const SLOWEST = 15000;
  const LONGEST = 600000;
  const ANSWERS = 10000;

  const place = document.querySelector("[data-status]");
  if (!place) return;
  const { status, word, version } = place.dataset;
  const says = place.querySelector("[data-says]");
  const again = place.querySelector("[data-again]");
  again.hidden = true; // until this script asks no more
  let waited = 0;
  let tag = "";
  let timer = null;
  let isAsking = false;

  addEventListener("pageshow", (event) => {
    if (event.persisted) location.reload();
  });
  document.addEventListener("visibilitychange", () => {
    clearTimeout(timer);
    if (!document.hidden && !isAsking && again.hidden) ask();
  });
  later();

  function later() {
    if (document.hidden) return; // until it is shown again
    if (waited >= LONGEST) {
      say("longer");
      again.hidden = false;
      return;
    }
    const delay = Math.min(SLOWEST, FIRST + waited / 20);
    waited += delay;
    timer = setTimeout(ask, delay);
  }

  async function ask() {
    isAsking = true;
    const isNew = await hasChanged();
    isAsking = false;
    if (!isNew) return later();
    say("changed");
    location.replace(status);
  }

  async function hasChanged() {
    const stop = new AbortController();
    const giveUp = setTimeout(() => stop.abort(), ANSWERS);
    try {
      const headers = { Accept: "application/json", ...(tag && { "If-None-Match": tag }) };
      const response = await fetch(status, { headers, cache: "no-store", signal: stop.signal });
      tag = response.headers.get("ETag") || tag;
      if (response.status === 404 || response.status === 410) return true;
      if (response.status !== 200) return false;
      const now = await response.json();
      return now.word !== word || now.version !== version;
    } catch {
      return false; // no answer is no result
    } finally {
      clearTimeout(giveUp);
    }
  }

  function say(name) {
    says.textContent = place.querySelector(`template[data-${name}]`).content.textContent.trim();
    says.classList.remove("waits");
  }
})();
