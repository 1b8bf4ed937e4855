use proptest::prelude::*;
use runtime::SystemClock;
use serde_json::json;

use super::*;
use crate::event::{MAX_DATA_BYTES, MetadataValue};
use crate::topic::Topic;

fn read(headers: &[(&str, &str)], body: &[u8]) -> Result<Map<String, Value>, CloudEventError> {
    from_headers(headers.iter().map(|(name, value)| (*name, value.as_bytes())), body)
}

fn again(message: &BinaryMessage) -> Event {
    let headers = message.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let object = from_headers(headers, &message.body).unwrap();
    Event::from_json(object, &SystemClock, MAX_DATA_BYTES).unwrap()
}

#[test]
fn an_event_becomes_headers_and_a_body() {
    let event = Event::from_json(
        json!({"specversion": "1.0", "id": "A1", "source": "/shop", "type": "orders.created",
               "time": "2018-04-05T17:31:00Z", "subject": "Euro € \"x\" 100%", "attempt": 2, "data": {"id": 7}})
        .as_object()
        .cloned()
        .unwrap(),
        &SystemClock,
        MAX_DATA_BYTES,
    )
    .unwrap();
    let message = to_headers(&event).unwrap();
    let headers: Vec<_> =
        message.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(
        headers,
        [
            ("ce-specversion", "1.0"),
            ("ce-id", "A1"),
            ("ce-source", "/shop"),
            ("ce-type", "orders.created"),
            ("ce-time", "2018-04-05T17:31:00Z"),
            ("ce-attempt", "2"),
            ("ce-subject", "Euro%20%E2%82%AC%20%22x%22%20100%25"),
            ("content-type", "application/json"),
        ]
    );
    assert_eq!(message.body, br#"{"id":7}"#);
}

#[test]
fn headers_are_read_in_any_case_quoted_or_not() {
    let object = read(
        &[
            ("Host", "example.org"),
            ("CE-Type", "a"),
            ("Ce-Subject", "\"a \\\"b\\\" %E2%82%AC\""),
            ("ce-plain", "with blanks, 5%-off"),
            ("Content-Type", "text/plain; charset=utf-8"),
        ],
        "größer".as_bytes(),
    )
    .unwrap();
    assert_eq!(
        Value::Object(object),
        json!({"type": "a", "subject": "a \"b\" €", "plain": "with blanks, 5%-off",
               "datacontenttype": "text/plain; charset=utf-8", "data": "größer"})
    );
}

#[test]
fn the_content_type_says_what_the_data_is() {
    for (kind, body, field, data) in [
        ("application/vnd.x+json", &b"[1]"[..], "data", json!([1])),
        ("Application/JSON;charset=utf-8", b"null", "data", Value::Null),
        ("application/octet-stream", b"hello", "data_base64", json!("aGVsbG8=")),
        ("text/plain", b"\xff", "data_base64", json!("/w==")),
    ] {
        let object = read(&[("ce-type", "a"), ("content-type", kind)], body).unwrap();
        assert_eq!(object.get(field), Some(&data), "{kind}");
        let event = Event::from_json(object, &SystemClock, MAX_DATA_BYTES).unwrap();
        let message = to_headers(&event).unwrap();
        assert_eq!(message.body, body, "{kind}");
        assert!(message.headers.contains(&("content-type".to_owned(), kind.to_owned())), "{kind}");
    }
    let without = read(&[("ce-type", "a")], b"x").unwrap();
    assert_eq!(without.get("data_base64"), Some(&json!("eA==")));
    let empty = read(&[("ce-type", "a"), ("content-type", "application/json")], b"").unwrap();
    assert!(!empty.contains_key("data"));
}

#[test]
fn a_refusal_names_the_header() {
    let long = "x".repeat(MAX_HEADER_BYTES + 1);
    for (header, value, says) in [
        ("ce-subject", "%ff", "ce-subject: is not utf-8 once its percent signs are decoded"),
        ("ce-subject", &*long, "ce-subject: is too long"),
        ("ce-type", "b", "ce-type: stands twice"),
        ("ce-data", "1", "ce-data: is no header of an attribute"),
        ("ce-datacontenttype", "a/b", "ce-datacontenttype: is no header of an attribute"),
    ] {
        let error = read(&[("ce-type", "a"), (header, value)], b"").unwrap_err();
        assert_eq!((error.field(), error.to_string().as_str()), (header, says));
    }
    let error = read(&[("content-type", "application/json")], b"{").unwrap_err();
    assert_eq!(error.field(), "data");
    let many: Vec<_> = (0..=MAX_METADATA_ENTRIES + OWN_ATTRIBUTES).map(|n| format!("ce-a{n}")).collect();
    let many: Vec<_> = many.iter().map(|name| (name.as_str(), "x")).collect();
    assert_eq!(read(&many, b"").unwrap_err().to_string(), "ce-a40: is one attribute too many");
}

#[test]
fn the_mode_is_told_by_the_content_type() {
    for (kind, has_version, expected) in [
        (Some("application/cloudevents+json; charset=utf-8"), false, Some(Mode::Structured)),
        (Some("application/cloudevents-batch+json"), true, Some(Mode::Batch)),
        (Some("application/json"), true, Some(Mode::Binary)),
        (None, true, Some(Mode::Binary)),
        (Some("application/json"), false, None),
    ] {
        assert_eq!(mode(kind, has_version), Ok(expected), "{kind:?}");
    }
    let error = mode(Some("application/cloudevents+avro"), false).unwrap_err();
    assert_eq!(error.field(), "content-type");
}

fn extensions() -> impl Strategy<Value = Vec<(String, MetadataValue)>> {
    let value = prop_oneof![
        "\\PC{0,40}".prop_map(MetadataValue::Text),
        any::<bool>().prop_map(MetadataValue::Bool),
        any::<i32>().prop_map(MetadataValue::Integer),
    ];
    // None of these is an attribute of the event itself.
    prop::collection::vec(("x[a-z0-9]{0,40}", value), 0..20)
}

fn data() -> impl Strategy<Value = Option<Value>> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,20}".prop_map(Value::from),
    ];
    prop::option::of(leaf.prop_recursive(2, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("\\PC{0,8}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    }))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_extension_survives_both_modes(
        extensions in extensions(), data in data(), source in "[!-~]{1,40}", id in "[ -~]{1,40}",
    ) {
        let mut builder = Event::builder(Topic::new("a.b").unwrap()).source(source).id(id.parse().unwrap());
        for (key, value) in extensions {
            builder = builder.metadata(key, value);
        }
        if let Some(data) = data {
            builder = builder.data(data);
        }
        let event = builder.build(&SystemClock).unwrap();
        let json = |event: &Event| serde_json::to_value(event).unwrap();

        let structured: Event = serde_json::from_str(&serde_json::to_string(&event).unwrap()).unwrap();
        prop_assert_eq!(json(&structured), json(&event));

        // A header is text, with blanks around it that do not count.
        let message = to_headers(&event).unwrap();
        for (_, value) in &message.headers {
            prop_assert!(value.bytes().all(|b| (0x20..0x7f).contains(&b)), "{}", value);
        }
        let binary = again(&message);
        let texts = |event: &Event| {
            let texts = event.attributes().map(|(name, value)| (name.to_owned(), value.to_string()));
            texts.collect::<Vec<_>>()
        };
        prop_assert_eq!(texts(&binary), texts(&event));
        prop_assert_eq!(binary.has_data(), event.has_data());
        prop_assert_eq!(binary.data(), event.data());
    }
}
