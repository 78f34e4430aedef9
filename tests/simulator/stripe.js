// A stand-in for https://js.stripe.com: Stripe(key, options).verifyIdentity(secret), and nothing else of it.
(() => {
  const { origin, searchParams } = new URL(document.currentScript.src);
  if (searchParams.get("advancedFraudSignals") !== "false") signal();

  class IntegrationError extends Error {
    name = "IntegrationError";
  }

  window.Stripe = (publishableKey, { locale = "auto", stripeAccount = "" } = {}) => {
    if (!/^pk_(test|live)_\w+$/.test(publishableKey ?? "")) {
      throw new IntegrationError("Please call Stripe() with your publishable key.");
    }
    return {
      verifyIdentity: (secret) => {
        if (typeof secret !== "string" || !/^vs_\w+_secret_\w+$/.test(secret)) {
          throw new IntegrationError("Missing value for stripe.verifyIdentity: it should be a client_secret string.");
        }
        const language = locale === "auto" ? navigator.language : locale;
        return dialog({
          client_secret: secret, publishable_key: publishableKey, account: stripeAccount, locale: language,
        });
      },
    };
  };

  // Tells Stripe the page's whole address, as the real one does as soon as it is loaded.
  function signal() {
    const frame = document.createElement("iframe");
    frame.hidden = true;
    frame.src = `${origin}/js/m-outer#url=${encodeURIComponent(location.href)}`;
    document.body.append(frame);
  }

  // A promise of what the frame says in the end. A page whose policy forbids the frame waits for ever.
  function dialog(given) {
    const before = document.activeElement;
    const layer = document.createElement("div");
    const frame = document.createElement("iframe");
    // No attribute: a policy without 'unsafe-inline' forbids those.
    Object.assign(layer.style, {
      position: "fixed", inset: 0, zIndex: 2147483647, display: "grid", placeItems: "center", background: "#0008",
    });
    Object.assign(frame.style, { border: 0, width: "min(32rem, 100%)", height: "min(46rem, 100%)", background: "#fff" });
    layer.setAttribute("role", "dialog");
    layer.setAttribute("aria-modal", "true");
    layer.setAttribute("aria-label", "Stripe");
    frame.title = "Verify your identity (simulator)";
    frame.src = `${origin}/js/modal`;
    layer.append(frame);
    document.body.append(layer);
    frame.focus();
    return new Promise((resolve) => {
      addEventListener("message", function listen(event) {
        if (event.source !== frame.contentWindow || event.origin !== origin) return;
        if (event.data.ready) frame.contentWindow.postMessage(given, origin);
        if (!event.data.result) return;
        removeEventListener("message", listen);
        layer.remove();
        before?.focus();
        resolve(event.data.result);
      });
    });
  }
})();
