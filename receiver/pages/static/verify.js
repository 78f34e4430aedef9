// Turns the click into Stripe's modal. Every failure on that way ends in the redirect of the form.
"use strict";

(() => {
  const LOADS = 5000; // ms that a click waits for Stripe.js
  const ANSWERS = 30000; // for our own answer, behind which Stripe is asked
  const OPENS = 10000; // for the modal, until another way is shown beside it
  const CLOSED = ["session_cancelled", "session_canceled"];

  addEventListener("pageshow", (event) => {
    if (event.persisted) location.reload(); // the state may be another one by now
  });
  document.querySelector("main > .problem")?.focus();
  const form = document.getElementById("verify");
  if (!form?.dataset.stripeJs) return;

  const { stripeJs, key, locale, account, status, word, version } = form.dataset;
  const button = form.querySelector("button");
  const says = document.querySelector("[data-says]");
  const slow = document.querySelector("[data-slow]");
  let isUnderWay = false;
  let isUseless = false; // true once Stripe.js or its frame is blocked
  let sentAt = -Infinity;
  let loading = null;

  const ignore = () => {}; // a frame that is blocked at another time may be one that nobody misses
  let giveUp = ignore;
  document.addEventListener("securitypolicyviolation", (event) => {
    if (event.disposition === "enforce" && event.effectiveDirective.startsWith("frame-src")) giveUp();
  });

  form.addEventListener("submit", (event) => {
    if (isUseless || event.submitter?.hasAttribute("data-redirect")) {
      // By itself; of two clicks in a second one is enough.
      if (event.timeStamp - sentAt < 1000) event.preventDefault();
      else sentAt = event.timeStamp;
      return;
    }
    event.preventDefault();
    if (!isUnderWay) enter();
  });

  async function enter() {
    isUnderWay = true;
    document.querySelector("main > .problem")?.remove();
    say("opening");
    const stripe = await stripeInTime();
    const answer = stripe && (await ask());
    if (answer === undefined) return; // it is told
    if (!answer) redirect();
    else if (answer.client_secret) await open(stripe, answer);
    else if (answer.url || answer.location) location.assign(answer.url || answer.location);
    else tell(answer.error);
  }

  // Not before the click: Stripe.js tells Stripe the page's address, and the link is in that.
  function load() {
    return new Promise((resolve) => {
      const script = document.createElement("script");
      script.src = stripeJs;
      script.onload = () => resolve(typeof window.Stripe === "function");
      script.onerror = () => resolve(false);
      document.head.append(script);
    });
  }

  async function stripeInTime() {
    loading ??= load();
    if (!(await Promise.race([loading, after(LOADS)]))) return null;
    try {
      return window.Stripe(key, { locale, ...(account && { stripeAccount: account }) });
    } catch {
      return null;
    }
  }

  // A fresh secret, and only now: it works once. Null for an answer that only a browser can show.
  async function ask() {
    const stop = new AbortController();
    const timer = setTimeout(() => stop.abort(), ANSWERS);
    try {
      const init = { method: "POST", headers: { Accept: "application/json" }, signal: stop.signal };
      const response = await fetch(form.action, init);
      return await response.json();
    } catch (error) {
      return error instanceof SyntaxError ? null : tell("offline");
    } finally {
      clearTimeout(timer);
    }
  }

  async function open(stripe, entry) {
    const isBlocked = new Promise((resolve) => { giveUp = resolve; });
    const timer = setTimeout(() => {
      giveUp = ignore;
      slow.hidden = false;
    }, OPENS);
    const result = await Promise.race([verify(stripe, entry.client_secret), isBlocked]);
    clearTimeout(timer);
    giveUp = ignore;
    slow.hidden = true;
    if (!result) redirect();
    else if (!result.error) location.assign(entry.status); // that page believes the record alone
    else if (CLOSED.includes(result.error.code)) await closed();
    else if (template("problem", result.error.code || "")?.dataset.problem) tell(result.error.code);
    else {
      tell("", result.error.message);
      await look();
    }
  }

  async function verify(stripe, secret) {
    try {
      return await stripe.verifyIdentity(secret);
    } catch {
      return null;
    }
  }

  async function closed() {
    isUnderWay = false;
    say("closed");
    button.focus();
    await look(); // the person may have gone on in another place
  }

  // Leads to the status page if the record says something else than this page.
  async function look() {
    try {
      const response = await fetch(status, { headers: { Accept: "application/json" }, cache: "no-store" });
      if (!response.ok) return;
      const now = await response.json();
      if (now.word !== word || now.version !== version) location.assign(status);
    } catch {
      // Nothing is known, and the person may go on.
    }
  }

  function tell(name, message) {
    isUnderWay = false;
    say();
    const problem = (template("problem", name) || template("problem", "")).content.cloneNode(true).firstElementChild;
    const words = problem.querySelector("[data-message]");
    if (words && message) {
      words.textContent = message;
      words.hidden = false;
    }
    document.querySelector("main").prepend(problem);
    problem.focus();
  }

  function say(name) {
    says.textContent = name ? template(name, "").content.textContent.trim() : "";
    says.classList.toggle("waits", name === "opening");
  }

  function template(kind, value) {
    return [...document.querySelectorAll(`template[data-${kind}]`)].find((one) => one.dataset[kind] === value);
  }

  function redirect() {
    isUseless = true;
    HTMLFormElement.prototype.submit.call(form);
  }

  function after(milliseconds) {
    return new Promise((resolve) => { setTimeout(resolve, milliseconds); });
  }
})();
