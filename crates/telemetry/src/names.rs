//! Names and labels made to fit the text formats, at the moment they come in.
//!
//! Doing it then, and not when rendering, keeps two spellings of one name from becoming two series with
//! one name, which a scraper refuses as a whole.

use crate::snapshot::{Labels, MetricKind};

/// A name is cut here, in bytes.
const NAME_MAX: usize = 128;
/// A label's value is cut here, in bytes.
const LABEL_VALUE_MAX: usize = 256;
/// A series has no more labels than this.
const LABELS_MAX: usize = 16;

/// A name of `[a-zA-Z_:][a-zA-Z0-9_:]*`; what is not allowed becomes `_`.
pub(crate) fn metric_name(text: &str) -> String {
    fit(text, |byte| byte == b':')
}

/// Labels in the order of their names, each name once; of two that become one the first stays.
pub(crate) fn label_set<'a>(labels: impl Iterator<Item = (&'a str, &'a str)>, kind: MetricKind) -> Labels {
    let mut set: Vec<(String, String)> = Vec::new();
    for (name, value) in labels {
        let mut name = fit(name, |_| false);
        // Buckets are told apart by `le`, which therefore is not to be had.
        if kind == MetricKind::Histogram && name == "le" {
            name.insert_str(0, "exported_");
        }
        if set.len() < LABELS_MAX && set.iter().all(|(there, _)| *there != name) {
            set.push((name, cut(value, LABEL_VALUE_MAX).to_owned()));
        }
    }
    set.sort();
    set.into()
}

fn fit(text: &str, also: impl Fn(u8) -> bool) -> String {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || also(byte);
    let mut name: String = cut(text, NAME_MAX)
        .chars()
        .map(|char| if u8::try_from(char).is_ok_and(&allowed) { char } else { '_' })
        .collect();
    if name.is_empty() || name.starts_with(|first: char| first.is_ascii_digit()) {
        name.insert(0, '_');
    }
    name
}

/// At most `max` bytes of `text`, not cutting a character in two.
fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_made_to_fit() {
        let check = |text: &str, name: &str| assert_eq!(metric_name(text), name);
        check("http_requests_total", "http_requests_total");
        check("http.server.duration", "http_server_duration");
        check("9lives", "_9lives");
        check("", "_");
        check("größe", "gr__e");
        check("a:b", "a:b");
        assert_eq!(metric_name(&"x".repeat(500)).len(), 128);
    }

    #[test]
    fn labels_are_sorted_and_unique() {
        let set = label_set(
            [("b", "1"), ("a.x", "2"), ("a_x", "3"), ("le", "4")].into_iter(),
            MetricKind::Histogram,
        );
        let pairs: Vec<_> = set.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(pairs, [("a_x", "2"), ("b", "1"), ("exported_le", "4")]);
    }

    proptest! {
        #[test]
        fn every_name_is_valid(text in "\\PC{0,200}") {
            let name = metric_name(&text);
            prop_assert!(!name.is_empty() && name.len() <= NAME_MAX + 1);
            prop_assert!(!name.starts_with(|first: char| first.is_ascii_digit()));
            prop_assert!(name.chars().all(|char| char.is_ascii_alphanumeric() || "_:".contains(char)));
        }
    }
}
