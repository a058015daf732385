// Makes the pages nicer to use. Every page works without it.
"use strict";

(() => {
  const COPIED_FOR = 2000;
  const UNSENT =
    "The server could not be reached, so nothing is confirmed as saved. Check your connection and try again.";
  const UNREAD = "The server does not answer. This page is brought up to date as soon as it does.";
  const REFUSED =
    "The server could not do this, so nothing is confirmed as saved. Try again, or reload the page to see what is stored.";

  const all = (selector, root = document) => [
    ...(root.matches?.(selector) ? [root] : []),
    ...root.querySelectorAll(selector),
  ];

  // Has screen readers say a short text after what they are saying now, the same text as before too.
  function announce(text) {
    const place = document.getElementById("announcer");
    place.textContent = "";
    setTimeout(() => (place.textContent = text), 50);
  }

  const alerts = document.getElementById("alerts");

  const shownAlert = () => alerts.querySelector("p")?.textContent;

  function showAlert(text) {
    if (shownAlert() === text) return;
    const alert = document.getElementById("alert-template").content.cloneNode(true);
    alert.querySelector("p").textContent = text;
    alerts.replaceChildren(alert);
  }

  // Times: the server writes UTC; people read their own zone.

  const language = navigator.language.startsWith("en") ? navigator.language : "en-GB";
  const absolute = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" });
  const relative = new Intl.RelativeTimeFormat(language, { numeric: "auto" });
  const STEPS = [
    ["minute", 60, 3600],
    ["hour", 3600, 86400],
    ["day", 86400, 7 * 86400],
  ];

  function timeText(moment) {
    const seconds = (moment - Date.now()) / 1000;
    const distance = Math.abs(seconds);
    if (distance < 60) return "just now";
    const step = STEPS.find(([, , limit]) => distance < limit);
    return step ? relative.format(Math.trunc(seconds / step[1]), step[0]) : absolute.format(moment);
  }

  function localizeTimes(root) {
    for (const element of all("time[data-local]", root)) {
      const moment = new Date(element.dateTime);
      element.textContent = element.dataset.local === "exact" ? absolute.format(moment) : timeText(moment);
      element.title = absolute.format(moment);
    }
  }

  // Secrets: showing what one types, copying, hiding again.

  function toggleSecret(button) {
    const input = document.getElementById(button.dataset.toggleSecret);
    const show = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(show));
    if (input.tagName === "TEXTAREA") input.classList.toggle("masked", !show);
    else input.type = show ? "text" : "password";
  }

  async function copy(button) {
    const source = document.getElementById(button.dataset.copyTarget);
    const label = button.querySelector("[data-copy-label]");
    if (!(await writeClipboard(source))) {
      announce("Could not copy. The value is selected: copy it with the keyboard.");
      return;
    }
    label.textContent = "Copied";
    announce("Copied");
    setTimeout(() => (label.textContent = "Copy"), COPIED_FOR);
  }

  // Browsers offer the clipboard to secure pages only; elsewhere the selection is copied.
  async function writeClipboard(source) {
    try {
      await navigator.clipboard.writeText(source.textContent);
      return true;
    } catch {
      getSelection().selectAllChildren(source);
      return document.execCommand("copy");
    }
  }

  // A pasted key of several lines would lose its line breaks in an input of one line.
  function keepLines(event) {
    const input = event.target;
    const pasted = event.clipboardData?.getData("text").trim() ?? "";
    if (!input.matches?.("input[data-secret][name=value]") || !pasted.includes("\n")) return;
    event.preventDefault();
    const area = document.createElement("textarea");
    for (const { name, value } of input.attributes) if (name !== "type") area.setAttribute(name, value);
    area.rows = 4;
    area.classList.toggle("masked", input.type === "password");
    area.value = pasted;
    input.replaceWith(area);
    area.focus();
  }

  const countdowns = new WeakMap();

  function startCountdown(box) {
    if (countdowns.has(box)) return;
    const total = Number(box.dataset.hideAfter);
    const words = box.querySelector("[data-countdown]");
    let end = Date.now() + total * 1000;
    let warned = false;
    const keep = box.querySelector("[data-keep]");
    const tick = () => {
      const left = Math.ceil((end - Date.now()) / 1000);
      words.textContent = `Hides in ${left} s`;
      if (left <= 0 || !box.isConnected) return hide(box, left <= 0);
      if (left <= 10 && !warned) {
        warned = true;
        announce("The value hides in 10 seconds. Press Keep showing for longer.");
      }
    };
    keep.hidden = false;
    keep.addEventListener("click", () => {
      end = Date.now() + total * 1000;
      warned = false;
      tick();
    });
    countdowns.set(box, setInterval(tick, 1000));
    announce(`Value shown. It hides in ${total} seconds.`);
    tick();
  }

  // Takes the value out of the page at once, whatever the connection, and leaves the masked row.
  function hide(box, byItself) {
    clearInterval(countdowns.get(box));
    if (!box.isConnected) return;
    const key = box.closest("[data-key]");
    const hadFocus = box.contains(document.activeElement);
    box.remove();
    if (byItself) announce("Value hidden");
    if (hadFocus) key?.querySelector(".key-reveal button")?.focus();
  }

  // Codes: what people type or paste with spaces is sent without.
  function tidyCode(input) {
    const tidy = input.value.replace(/\s+/g, "");
    if (/^\d*$/.test(tidy) && tidy !== input.value) input.value = tidy;
  }

  // Forms are sent once.

  function sendOnce(event) {
    const form = event.target;
    if (form.getAttribute("aria-busy") === "true") {
      event.preventDefault();
      event.stopImmediatePropagation();
      return;
    }
    form.setAttribute("aria-busy", "true");
    for (const button of all("button[type=submit]", form)) button.setAttribute("aria-disabled", "true");
  }

  function release(root) {
    for (const form of all("form[aria-busy]", root)) form.removeAttribute("aria-busy");
    for (const button of all("button[aria-disabled]", root)) button.removeAttribute("aria-disabled");
  }

  // Focus goes where the news is: the first field to correct, or the receipt.
  function focusNews(root) {
    const place = ["[aria-invalid=true]", "[data-focus]", ".reauthenticate input[type=password]"]
      .map((selector) => all(selector, root)[0])
      .find(Boolean);
    place?.focus();
    return Boolean(place);
  }

  function enhance(root) {
    localizeTimes(root);
    for (const button of all("[data-copy-target][hidden], [data-toggle-secret][hidden]", root)) button.hidden = false;
    for (const box of all("[data-hide-after]", root)) startCountdown(box);
    markScrollable(root);
  }

  // What scrolls is a stop of the keyboard, what does not is none.
  function markScrollable(root) {
    for (const box of all(".table-scroll, .value", root)) {
      box.tabIndex = box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight ? 0 : -1;
    }
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-copy-target], [data-toggle-secret], [data-hide], [data-close]");
    if (!button) return;
    if (button.dataset.copyTarget) void copy(button);
    else if (button.dataset.toggleSecret) toggleSecret(button);
    else if ("close" in button.dataset) alerts.replaceChildren();
    else {
      event.preventDefault();
      hide(button.closest("[data-revealed]"), true);
    }
  });
  document.addEventListener("focusin", (event) => event.target.closest?.(".key-form")?.classList.add("in-use"));
  document.addEventListener("paste", keepLines);
  document.addEventListener("input", (event) => {
    if (event.target.autocomplete === "one-time-code") tidyCode(event.target);
  });
  document.addEventListener("submit", sendOnce, true);

  // A page that the browser kept while it was left must come back without values and with forms that work.
  addEventListener("pagehide", () => all("[data-revealed]").forEach((box) => hide(box, false)));
  addEventListener("pageshow", () => release(document));
  addEventListener("resize", () => markScrollable(document));

  const isRead = (event) => event.detail.requestConfig.verb === "get";
  document.addEventListener("htmx:afterRequest", (event) => {
    release(event.detail.elt);
    if (isRead(event) && event.detail.xhr.status === 200 && shownAlert() === UNREAD) alerts.replaceChildren();
  });
  document.addEventListener("htmx:beforeRequest", (event) => {
    // A page that brings itself up to date says once that its session is gone, not every two seconds.
    if (!isRead(event)) alerts.replaceChildren();
    else if (alerts.querySelector("[data-sign-in]")) event.preventDefault();
  });
  document.addEventListener("htmx:sendError", (event) => showAlert(isRead(event) ? UNREAD : UNSENT));
  document.addEventListener("htmx:timeout", (event) => showAlert(isRead(event) ? UNREAD : UNSENT));
  document.addEventListener("htmx:responseError", (event) => showAlert(isRead(event) ? UNREAD : REFUSED));

  // Our own errors go to the alerts. A whole document, such as a proxy's own error page, must not take the place of a key: it would
  // look gone. Of what the page asked for by itself it is enough to say that it did not come.
  document.addEventListener("htmx:beforeSwap", (event) => {
    const { xhr, serverResponse } = event.detail;
    const unread = isRead(event) && xhr.status >= 400 && xhr.status !== 401;
    if (xhr.getResponseHeader("HX-Retarget") === "#alerts" && !unread) {
      event.detail.shouldSwap = true;
      event.detail.isError = false;
      return;
    }
    if (!unread && !/^\s*<(!doctype|html)/i.test(serverResponse)) return;
    event.detail.shouldSwap = false;
    if (xhr.status < 400) location.assign(xhr.responseURL);
    else event.detail.isError = true;
  });

  document.addEventListener("htmx:load", (event) => {
    const root = event.detail.elt;
    if (root === document.body) return;
    enhance(root);
    for (const news of all("[data-announce]", root)) announce(news.dataset.announce);
  });
  document.addEventListener("htmx:afterSettle", (event) => {
    if (isRead(event)) return;
    const root = event.detail.elt;
    if (!focusNews(root) && document.activeElement === document.body) {
      all("summary, button, input:not([type=hidden])", root)[0]?.focus();
    }
  });

  enhance(document);
  focusNews(document);
  setInterval(() => localizeTimes(document), 60000);
})();
