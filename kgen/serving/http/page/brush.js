"use strict";

/* A brush that paints a mask over a picture, with a mouse, a finger, a pen or the keyboard. */

class Brush {
  constructor(canvas, size) {
    this.canvas = canvas;
    this.size = size;
    this.mask = document.createElement("canvas");
    this.picture = null;
    this.at = { x: 0, y: 0 };
    this.last = null;
    canvas.addEventListener("pointerdown", (e) => {
      canvas.setPointerCapture(e.pointerId);
      this.last = null;
      this.stroke(this.place(e));
    });
    canvas.addEventListener("pointermove", (e) => {
      if (e.buttons) this.stroke(this.place(e));
    });
    canvas.addEventListener("pointerup", () => { this.last = null; });
    canvas.addEventListener("keydown", (e) => this.key(e));
    canvas.addEventListener("focus", () => this.show());
    canvas.addEventListener("blur", () => this.show());
  }

  /** Opens a picture, which may be anything that can be drawn on a canvas. */
  open(picture) {
    this.picture = picture;
    for (const one of [this.canvas, this.mask]) {
      one.width = picture.width;
      one.height = picture.height;
    }
    this.at = { x: picture.width / 2, y: picture.height / 2 };
    this.clear();
  }

  clear() {
    this.mask.getContext("2d").clearRect(0, 0, this.mask.width, this.mask.height);
    this.painted = false;
    this.last = null;
    this.show();
  }

  close() {
    this.picture = null;
    this.painted = false;
  }

  place(e) {
    const box = this.canvas.getBoundingClientRect();
    return {
      x: ((e.clientX - box.left) * this.canvas.width) / box.width,
      y: ((e.clientY - box.top) * this.canvas.height) / box.height,
    };
  }

  /** The radius of the brush in pixels of the picture. */
  get radius() {
    return (Number(this.size.value) / 100) * Math.max(this.canvas.width, this.canvas.height);
  }

  stroke(to) {
    const pen = this.mask.getContext("2d");
    pen.lineCap = "round";
    pen.lineWidth = 2 * this.radius;
    pen.strokeStyle = "white";
    pen.beginPath();
    const from = this.last ?? to;
    pen.moveTo(from.x, from.y);
    pen.lineTo(to.x + 0.01, to.y);
    pen.stroke();
    this.painted = true;
    this.last = this.at = to;
    this.show();
  }

  key(e) {
    const step = Math.max(1, this.radius / 2);
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (moves[e.key]) {
      const [x, y] = moves[e.key];
      this.at = {
        x: Math.min(this.canvas.width, Math.max(0, this.at.x + x * step)),
        y: Math.min(this.canvas.height, Math.max(0, this.at.y + y * step)),
      };
      if (e.shiftKey) this.stroke(this.at);
      this.last = null;
    } else if (e.key === " " || e.key === "Enter") {
      this.last = null;
      this.stroke(this.at);
      this.last = null;
    } else if (e.key === "+" || e.key === "-") {
      this.size.value = Number(this.size.value) + (e.key === "+" ? 2 : -2);
    } else {
      return;
    }
    e.preventDefault();
    this.show();
  }

  show() {
    if (!this.picture) return;
    const pen = this.canvas.getContext("2d");
    const { width, height } = this.canvas;
    pen.clearRect(0, 0, width, height);
    pen.drawImage(this.picture, 0, 0, width, height);
    pen.save();
    pen.globalAlpha = 0.55;
    pen.drawImage(this.mask, 0, 0);
    pen.restore();
    if (document.activeElement === this.canvas) {
      pen.lineWidth = Math.max(1, width / 200);
      for (const [colour, more] of [["black", 0], ["white", pen.lineWidth]]) {
        pen.strokeStyle = colour;
        pen.beginPath();
        pen.arc(this.at.x, this.at.y, this.radius + more, 0, 2 * Math.PI);
        pen.stroke();
      }
    }
  }

  /** Returns the mask as a PNG, white on black, or null without paint. */
  blob() {
    if (!this.painted) return null;
    const whole = document.createElement("canvas");
    whole.width = this.mask.width;
    whole.height = this.mask.height;
    const pen = whole.getContext("2d");
    pen.fillStyle = "black";
    pen.fillRect(0, 0, whole.width, whole.height);
    pen.drawImage(this.mask, 0, 0);
    return new Promise((resolve) => whole.toBlob(resolve, "image/png"));
  }
}
