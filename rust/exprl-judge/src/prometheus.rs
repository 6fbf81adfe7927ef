//! Counters in Prometheus' text format (0.0.4).

use std::fmt::{Display, Write};

/// A page of metrics as it is written.
#[derive(Default)]
pub(crate) struct Page {
    text: String,
}

impl Page {
    /// Starts a metric; its samples follow. `kind` is `counter`, `gauge` or `histogram`.
    pub(crate) fn metric(&mut self, name: &str, kind: &str, help: &str) -> &mut Self {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
        self
    }

    /// One sample.
    pub(crate) fn sample(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        value: impl Display,
    ) -> &mut Self {
        let labels: Vec<String> = labels
            .iter()
            .map(|(label, value)| format!("{label}=\"{}\"", escape(value)))
            .collect();
        match labels.as_slice() {
            [] => self.line(format_args!("{name} {value}")),
            labels => self.line(format_args!("{name}{{{}}} {value}", labels.join(","))),
        }
        self
    }

    /// A metric with one sample and no labels.
    pub(crate) fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.metric(name, kind, help).sample(name, &[], value);
    }

    pub(crate) fn finish(self) -> String {
        self.text
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{line}");
    }
}

fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_the_text_format() {
        let mut page = Page::default();
        page.single("a_total", "counter", "All of a.", 3_u64);
        page.metric("b", "gauge", "Now.").sample(
            "b",
            &[("server", "x\"\\\n"), ("status", "200")],
            0.5,
        );
        let expected = "# HELP a_total All of a.\n# TYPE a_total counter\na_total 3\n\
                        # HELP b Now.\n# TYPE b gauge\nb{server=\"x\\\"\\\\\\n\",status=\"200\"} 0.5\n";
        assert_eq!(page.finish(), expected);
    }
}
