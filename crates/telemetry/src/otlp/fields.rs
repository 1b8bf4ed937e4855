//! Fields of spans and events as attributes.

use std::fmt::{self, Write};

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};

/// A span or a log record has no more attributes than this.
const ATTRIBUTES_MAX: usize = 128;

/// A text in an attribute is no longer than this, in bytes.
const TEXT_BYTES_MAX: usize = 4096;

/// Attributes, as many as fit.
#[derive(Debug, Default)]
pub(super) struct Attributes {
    pub(super) list: Vec<KeyValue>,
    pub(super) dropped: u32,
}

impl Attributes {
    pub(super) fn add(&mut self, key: &str, value: Value) {
        let is_full = self.list.len() >= ATTRIBUTES_MAX;
        match self.list.iter_mut().find(|known| known.key == key) {
            Some(known) => known.value = Some(AnyValue { value: Some(value) }),
            None if is_full => self.dropped += 1,
            None => self.list.push(attribute(key, value)),
        }
    }
}

pub(super) fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

/// A text as an attribute's value, cut where it is too long.
pub(super) fn text(text: &str) -> Value {
    let end = text.floor_char_boundary(TEXT_BYTES_MAX);
    Value::StringValue(text[..end].to_owned())
}

/// A number that may be too large for the format's own.
pub(super) fn unsigned(number: u64) -> Value {
    i64::try_from(number).map_or_else(|_| Value::StringValue(number.to_string()), Value::IntValue)
}

/// What something writes of itself, written no further than what fits.
pub(super) fn debug(value: &dyn fmt::Debug) -> String {
    struct Bounded(String);
    impl Write for Bounded {
        fn write_str(&mut self, part: &str) -> fmt::Result {
            let end = part.floor_char_boundary(TEXT_BYTES_MAX - self.0.len());
            self.0.push_str(&part[..end]);
            if end < part.len() { Err(fmt::Error) } else { Ok(()) }
        }
    }
    let mut written = Bounded(String::new());
    // The only error is that it is long enough.
    let _ = write!(written, "{value:?}");
    written.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_bounded_and_a_later_value_replaces_an_earlier() {
        let mut attributes = Attributes::default();
        for n in 0..200 {
            attributes.add(&format!("a{n}"), Value::IntValue(n));
        }
        attributes.add("a5", Value::BoolValue(true));
        assert_eq!((attributes.list.len(), attributes.dropped), (128, 72));
        assert_eq!(attributes.list[5].value, Some(AnyValue { value: Some(Value::BoolValue(true)) }));
    }

    #[test]
    fn texts_are_cut_between_characters() {
        let long = "\u{e9}".repeat(3000);
        assert_eq!(text(&long), Value::StringValue("\u{e9}".repeat(2048)));
        assert_eq!(debug(&format_args!("x{long}")).len(), 4095);
        assert_eq!(debug(&format_args!("short")), "short");
        assert_eq!(unsigned(u64::MAX), Value::StringValue("18446744073709551615".into()));
    }
}
