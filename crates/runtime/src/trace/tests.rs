use proptest::prelude::*;

use super::*;

const TEXT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[test]
fn reads_and_writes_the_header() {
    let context: TraceContext = TEXT.parse().unwrap();
    assert_eq!(context.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(context.span_id().to_string(), "00f067aa0ba902b7");
    assert!(context.is_sampled());
    assert_eq!(context.to_string(), TEXT);
}

#[test]
fn refuses_what_the_specification_refuses() {
    let check = |text: &str, error| assert_eq!(text.parse::<TraceContext>(), Err(error), "{text}");
    check("", TraceContextError::Form);
    check(&TEXT[..54], TraceContextError::Form);
    check(&TEXT.to_uppercase(), TraceContextError::Form);
    check(&format!("{TEXT}-more"), TraceContextError::Form);
    check(&TEXT.replacen("00-", "ff-", 1), TraceContextError::Version);
    check(&format!("cc{}x", &TEXT[2..]), TraceContextError::Form);
    check("00-00000000000000000000000000000000-00f067aa0ba902b7-01", TraceContextError::Zero);
    check("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", TraceContextError::Zero);
    check("00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-01", TraceContextError::Form);
    check("00-4bf92f3577b34da6a3ce929d0e0e473é-00f067aa0ba902b7-01", TraceContextError::Form);
}

#[test]
fn a_later_version_is_read_as_far_as_it_is_known() {
    let later = format!("cc{}-what-the-future-will-be-like", &TEXT[2..]);
    assert_eq!(later.parse::<TraceContext>().unwrap().to_string(), TEXT);
}

#[test]
fn travels_as_text_in_json() {
    let context: TraceContext = TEXT.parse().unwrap();
    let json = serde_json::to_string(&context).unwrap();
    assert_eq!(json, format!("\"{TEXT}\""));
    assert_eq!(serde_json::from_str::<TraceContext>(&json).unwrap(), context);
    assert!(serde_json::from_str::<TraceContext>("\"00-1-2-3\"").is_err());
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,80}") {
        let _ = text.parse::<TraceContext>();
    }

    #[test]
    fn near_misses_never_panic(at in 0usize..55, byte in any::<char>()) {
        let mut text = TEXT.to_owned();
        text.replace_range(at..=at, &byte.to_string());
        if let Ok(context) = text.parse::<TraceContext>() {
            prop_assert_eq!(context.to_string().parse::<TraceContext>().unwrap(), context);
        }
    }

    #[test]
    fn new_contexts_survive_the_header(sampled: bool) {
        let context = TraceContext::root(sampled);
        prop_assert_eq!(context.to_string().parse::<TraceContext>().unwrap(), context);
    }
}
