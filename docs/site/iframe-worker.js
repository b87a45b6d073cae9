/* A browser starts no worker for a page that is opened from disk. There, and only there, the search
 * runs in a hidden frame that passes messages as a worker would. */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.waiting = [];
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.appendChild(frame);
      const inner = frame.contentWindow;
      inner.postMessage = (data) => this.answer(data);
      inner.importScripts = (...scripts) =>
        scripts.reduce(
          (before, src) => before.then(() => this.load(frame, new URL(src, url).href)),
          Promise.resolve()
        );
      this.inner = inner;
      this.ready = this.load(frame, url);
    }
    load(frame, src) {
      return new Promise((done, fail) => {
        const script = frame.contentDocument.createElement("script");
        script.src = src;
        script.onload = done;
        script.onerror = fail;
        frame.contentDocument.body.appendChild(script);
      });
    }
    answer(data) {
      const event = new MessageEvent("message", { data });
      this.dispatchEvent(event);
      if (this.onmessage) this.onmessage(event);
    }
    postMessage(data) {
      this.ready.then(() => this.inner.dispatchEvent(new MessageEvent("message", { data })));
    }
    terminate() {}
  };
}
