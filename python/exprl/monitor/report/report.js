// Draws the charts of a report. Their data stand in the page as JSON; Plotly draws a chart when it
// comes near the window, and anew when the theme, the axis or the smoothing changes.
"use strict";

(() => {
  const { runs, charts } = JSON.parse(document.getElementById("data").textContent);
  const FORMS = { number: ["~g", ".4~g"], share: ["~%", ".4~%"], count: ["~s", ",.4~r"], seconds: ["~s", ".3~s"] };
  const AXES = { step: "step", hours: "hours of training", tokens: "sampled tokens" };
  const coarse = matchMedia("(pointer: coarse)").matches;
  const shown = { axis: "step", smooth: 1 };

  // A variable of look.css as the browser resolves it for the theme.
  const probe = document.createElement("span");
  probe.hidden = true;
  document.documentElement.append(probe);
  function colour(name, alpha = 1) {
    probe.style.color = `color-mix(in srgb, var(--${name}) ${100 * alpha}%, transparent)`;
    return getComputedStyle(probe).color;
  }

  // Where each point of a curve lies. Evaluations have steps of their own; step 0 is the start.
  function places(curve) {
    const axes = runs[curve.run].axes;
    if (!curve.steps) return axes[shown.axis];
    return curve.steps.map((step) => place(curve.run, step));
  }

  function place(run, step) {
    const axes = runs[run].axes;
    if (shown.axis === "step") return step;
    const index = axes.step.findLastIndex((known) => known <= step);
    return index < 0 ? 0 : axes[shown.axis][index];
  }

  // Means over the last points that have a number.
  function smooth(values) {
    return values.map((value, i) => {
      const last = values.slice(Math.max(0, i - shown.smooth + 1), i + 1).filter((v) => v !== null);
      return value === null ? null : last.reduce((sum, v) => sum + v, 0) / last.length;
    });
  }

  function traces(chart) {
    const several = runs.length > 1;
    return chart.curves.flatMap((curve) => {
      const x = places(curve);
      const name = several ? `${runs[curve.run].name}: ${curve.name}` : curve.name;
      const line = { color: colour(curve.colour), width: curve.width, dash: curve.dash };
      const base = { x, mode: "lines", connectgaps: false, legendgroup: name };
      const silent = { ...base, hoverinfo: "skip", showlegend: false };
      const smoothed = shown.smooth > 1 && !curve.steps && !chart.stacked;
      const few = curve.y.length <= 40;
      const main = {
        ...base,
        name,
        y: smoothed ? smooth(curve.y) : curve.y,
        mode: few ? "lines+markers" : "lines",
        line,
        marker: { size: 6, color: line.color },
        hovertemplate: `%{y:${FORMS[chart.form][1]}}`,
      };
      if (chart.stacked) {
        Object.assign(main, { stackgroup: "all", fillcolor: line.color, mode: "lines" });
        main.line = { color: colour("surface"), width: 1 };
        return [main];
      }
      const parts = [];
      if (curve.low) {
        const edge = { ...silent, line: { width: 0 } };
        const fillcolor = colour(curve.colour, 0.16);
        parts.push({ ...edge, y: curve.low }, { ...edge, y: curve.high, fill: "tonexty", fillcolor });
        main.customdata = curve.low.map((low, i) => [low, curve.high[i]]);
        const format = FORMS[chart.form][1];
        main.hovertemplate += ` (%{customdata[0]:${format}} to %{customdata[1]:${format}})`;
      }
      if (smoothed) {
        parts.push({ ...silent, y: curve.y, line: { ...line, width: 1, color: colour(curve.colour, 0.35) } });
      }
      return [...parts, main];
    });
  }

  // Steps with an alarm: a band over the whole height.
  function bands(chart) {
    return chart.alarms.map(({ run, first, last }) => ({
      type: "rect",
      yref: "paper",
      y0: 0,
      y1: 1,
      x0: shown.axis === "step" ? first - 0.5 : place(run, first - 1),
      x1: shown.axis === "step" ? last + 0.5 : place(run, last),
      fillcolor: colour("level-1", 0.14),
      line: { width: 1, dash: "dot", color: colour("level-1", 0.6) },
      layer: "below",
    }));
  }

  function layout(chart, height) {
    const axis = { gridcolor: colour("line"), zerolinecolor: colour("line"), linecolor: colour("line"), automargin: true };
    const [ticks] = FORMS[chart.form];
    return {
      height,
      margin: { l: 8, r: 10, t: 8, b: 8 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("muted") },
      hoverlabel: { bgcolor: colour("surface"), bordercolor: colour("line"), font: { color: colour("text") }, namelength: -1 },
      hovermode: "x unified",
      dragmode: coarse ? false : "zoom",
      showlegend: chart.curves.length > 1,
      legend: { orientation: "h", x: 0, xanchor: "left", y: 1.02, yanchor: "bottom", traceorder: "normal" },
      xaxis: { ...axis, title: { text: AXES[shown.axis], standoff: 4 }, nticks: 8, tickformat: shown.axis === "step" ? ",d" : "~s", zeroline: false },
      yaxis: {
        ...axis,
        tickformat: ticks,
        exponentformat: "power",
        type: chart.log ? "log" : "linear",
        rangemode: chart.stacked ? "normal" : "tozero",
        ...(chart.stacked ? { range: [0, 1] } : {}),
        nticks: 6,
      },
      shapes: bands(chart),
    };
  }

  const CONFIG = {
    responsive: true,
    displaylogo: false,
    displayModeBar: coarse ? false : "hover",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
  };

  const drawn = new Set();
  function draw(box) {
    const chart = charts[Number(box.dataset.chart)];
    drawn.add(box);
    Plotly.react(box, traces(chart), layout(chart, box.clientHeight), CONFIG);
  }

  const near = new IntersectionObserver(
    (entries) => {
      for (const { isIntersecting, target } of entries) {
        if (!isIntersecting) continue;
        near.unobserve(target);
        draw(target);
      }
    },
    { rootMargin: "600px" },
  );
  const boxes = document.querySelectorAll("[data-chart]");
  for (const box of boxes) near.observe(box);

  const redraw = () => drawn.forEach(draw);
  addEventListener("exprl-theme", redraw);
  addEventListener("beforeprint", () => boxes.forEach(draw));
  document.getElementById("axis").addEventListener("change", (event) => {
    shown.axis = event.target.value;
    redraw();
  });
  document.getElementById("smooth").addEventListener("change", (event) => {
    shown.smooth = Number(event.target.value);
    redraw();
  });
})();
