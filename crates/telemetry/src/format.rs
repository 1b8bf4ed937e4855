//! The text formats, and which one a scraper gets.

/// A text format that scrapers read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Format {
    /// [Prometheus text](https://prometheus.io/docs/instrumenting/exposition_formats/), version 0.0.4.
    #[default]
    PrometheusText,
    /// [OpenMetrics text](https://prometheus.io/docs/specs/om/open_metrics_spec/), version 1.0.0; with
    /// exemplars.
    OpenMetrics,
}

impl Format {
    /// The format for a request with this `Accept` header: OpenMetrics where it is named and not liked
    /// less than plain text, else Prometheus text, also where neither is acceptable.
    ///
    /// A browser or a `curl`, which accept anything, get Prometheus text.
    ///
    /// ```
    /// use telemetry::Format;
    ///
    /// let accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    /// assert_eq!(Format::negotiate(Some(accept)), Format::OpenMetrics);
    /// assert_eq!(Format::negotiate(Some("*/*")), Format::PrometheusText);
    /// assert_eq!(Format::negotiate(None), Format::PrometheusText);
    /// ```
    #[must_use]
    pub fn negotiate(accept: Option<&str>) -> Self {
        let ranges = || accept.unwrap_or_default().split(',').take(32).filter_map(Range::parse);
        let best = |wanted: fn(&Range<'_>) -> bool| {
            ranges().filter(|range| wanted(range)).map(|range| range.quality).max().unwrap_or(0)
        };
        let open_metrics = best(|range| range.is_open_metrics());
        if open_metrics > 0 && open_metrics >= best(|range| range.is_plain_text()) {
            Self::OpenMetrics
        } else {
            Self::PrometheusText
        }
    }

    /// The value of the `Content-Type` header.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::PrometheusText => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// One entry of an `Accept` header.
struct Range<'a> {
    media: &'a str,
    version: Option<&'a str>,
    /// In thousandths, which is as fine as the header allows.
    quality: u16,
}

impl<'a> Range<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let mut range = Self { media: parts.next()?, version: None, quality: 1000 };
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            match name.trim() {
                "q" | "Q" => range.quality = quality(value.trim())?,
                "version" => range.version = Some(value.trim().trim_matches('"')),
                _ => {}
            }
        }
        Some(range)
    }

    fn is_open_metrics(&self) -> bool {
        self.media.eq_ignore_ascii_case("application/openmetrics-text")
            && matches!(self.version, None | Some("1.0.0" | "0.0.1"))
    }

    fn is_plain_text(&self) -> bool {
        self.media.eq_ignore_ascii_case("text/plain") && matches!(self.version, None | Some("0.0.4"))
    }
}

fn quality(text: &str) -> Option<u16> {
    let quality: f32 = text.parse().ok()?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be in 0..=1")]
    (0.0..=1.0).contains(&quality).then_some((quality * 1000.0) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn any_header_gets_an_answer(accept in "([a-z/*]{0,12}[;=,q\"0-9. -]{0,6}){0,8}", text in "\\PC{0,60}") {
            let _ = (Format::negotiate(Some(&accept)), Format::negotiate(Some(&text)));
        }
    }

    #[test]
    fn chooses_by_the_accept_header() {
        let check = |accept: &str, format| assert_eq!(Format::negotiate(Some(accept)), format, "{accept}");
        // What Prometheus 2 and 3 send.
        check(
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
             text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            Format::OpenMetrics,
        );
        check(
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
             application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,\
             text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
            Format::OpenMetrics,
        );
        check("text/plain;version=0.0.4;q=0.9,application/openmetrics-text;q=0.2", Format::PrometheusText);
        check("application/openmetrics-text; version=2.0.0", Format::PrometheusText);
        check("application/openmetrics-text;q=0", Format::PrometheusText);
        check("application/openmetrics-text;q=7", Format::PrometheusText);
        check("APPLICATION/OpenMetrics-Text", Format::OpenMetrics);
        check("text/html,application/xhtml+xml,*/*;q=0.8", Format::PrometheusText);
        check("", Format::PrometheusText);
        check(";;q==,,;version", Format::PrometheusText);
    }
}
