use proptest::prelude::*;

use super::*;

/// The definition, read aloud: slow, and plainly right.
fn oracle(pattern: &[&str], topic: &[&str]) -> bool {
    match (pattern, topic) {
        ([], []) => true,
        ([], _) => false,
        (["**", rest @ ..], _) => (0..=topic.len()).any(|taken| oracle(rest, &topic[taken..])),
        ([_, ..], []) => false,
        ([part, rest @ ..], [segment, others @ ..]) => {
            (*part == "*" || part == segment) && oracle(rest, others)
        }
    }
}

fn takes(pattern: &str, topic: &str) -> bool {
    Pattern::new(pattern).unwrap().matches(&Topic::new(topic).unwrap())
}

#[test]
fn wildcards_mean_what_the_words_say() {
    for (pattern, topic, expected) in [
        ("orders.*", "orders.created", true),
        ("orders.*", "orders", false),
        ("orders.*", "orders.created.eu", false),
        ("orders.**", "orders", true),
        ("orders.**", "orders.created.eu", true),
        ("**", "a", true),
        ("**.failed", "plugin.failed", true),
        ("**.failed", "failed", true),
        ("**.failed", "failed.twice", false),
        ("a.**.z", "a.z", true),
        ("a.**.z", "a.b.c.z", true),
        ("a.**.z", "a.b.c", false),
        ("*.*", "a.b", true),
        ("**.*.**", "a", true),
        ("a.b", "a.b", true),
        ("a.b", "a.bc", false),
    ] {
        assert_eq!(takes(pattern, topic), expected, "{pattern} on {topic}");
    }
}

#[test]
fn says_what_is_wrong() {
    for (text, says) in [
        ("", "pattern: is empty"),
        ("a..b", "pattern: `a..b` has an empty segment"),
        ("a*.b", "pattern: in `a*.b` the wildcard of `a*` must be a whole segment, `*` or `**`"),
        ("a.***", "pattern: in `a.***` the wildcard of `***` must be a whole segment, `*` or `**`"),
    ] {
        assert_eq!(Pattern::new(text).unwrap_err().to_string(), says);
    }
    assert!(Pattern::new("a.b/c").is_err());
    assert!(Pattern::new("a".repeat(256)).is_err());
}

#[test]
fn a_wide_pattern_covers_narrow_ones() {
    let covers = |wide, narrow| Pattern::new(wide).unwrap().covers(&Pattern::new(narrow).unwrap());
    for (wide, narrow) in
        [("**", "**"), ("**", "a.*"), ("a.**", "a"), ("a.**", "a.*.eu"), ("a.*", "a.b"), ("a.**", "a.**.z")]
    {
        assert!(covers(wide, narrow), "{wide} on {narrow}");
    }
    for (wide, narrow) in [("a.*", "a.**"), ("a.b", "a.*"), ("*", "**"), ("a.**", "b"), ("a.**", "**")] {
        assert!(!covers(wide, narrow), "{wide} on {narrow}");
    }
}

fn segments(
    of: &'static [&'static str],
    count: std::ops::Range<usize>,
) -> impl Strategy<Value = Vec<&'static str>> {
    prop::collection::vec(prop::sample::select(of), count)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn matching_is_what_the_oracle_says(
        pattern in segments(&["a", "b", "*", "**"], 1..7),
        topic in segments(&["a", "b", "c"], 1..7),
    ) {
        prop_assert_eq!(takes(&pattern.join("."), &topic.join(".")), oracle(&pattern, &topic));
    }

    #[test]
    fn what_a_covered_pattern_takes_the_covering_one_takes(
        wide in segments(&["a", "b", "*", "**"], 1..5),
        narrow in segments(&["a", "b", "*", "**"], 1..5),
        topic in segments(&["a", "b", "c"], 1..6),
    ) {
        let (wide, narrow, topic) = (wide.join("."), narrow.join("."), topic.join("."));
        if Pattern::new(&wide).unwrap().covers(&Pattern::new(&narrow).unwrap()) && takes(&narrow, &topic) {
            prop_assert!(takes(&wide, &topic));
        }
    }

    #[test]
    fn no_text_panics(text in ".{0,40}") {
        let _ = Pattern::new(&text);
        let _ = Topic::new(&text);
    }
}
