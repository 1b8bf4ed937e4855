use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

#[test]
fn expressions_are_said_in_both_languages() {
    let golden = include_str!("golden.txt");
    let mut lines = golden.lines().filter(|line| !line.is_empty());
    let mut said = String::new();
    while let Some(expression) = lines.next() {
        let (_, _) = (lines.next(), lines.next());
        let spec = match expression.starts_with('{') {
            true => serde_json::from_str(expression).unwrap(),
            false => ScheduleSpec::cron(expression),
        };
        let description = spec.description().unwrap_or_else(|| panic!("{expression}"));
        said += &format!("{expression}\n{}\n{}\n\n", description.en, description.zh);
    }
    // After a change that was meant: `GANTRY_GOLDEN=1 cargo test -p scheduler --lib describe`, and look at
    // what has changed.
    if std::env::var_os("GANTRY_GOLDEN").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/src/schedule/describe/golden.txt"), &said)
            .unwrap();
    } else {
        assert_eq!(said, golden);
    }
}

#[test]
fn what_cannot_be_read_is_not_described() {
    for text in ["", "* * *", "@often", "@every", "@every soon", "61 * * * *"] {
        assert_eq!(describe_cron(text, Language::English), None, "{text}");
    }
}

fn field(min: u16, max: u16) -> impl Strategy<Value = String> {
    let value = min..=max;
    prop_oneof![
        3 => Just("*".to_owned()),
        3 => value.clone().prop_map(|value| value.to_string()),
        2 => (2_u16..40).prop_map(|step| format!("*/{step}")),
        2 => (value.clone(), value.clone()).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))),
        1 => (value.clone(), value.clone(), 1_u16..9)
            .prop_map(|(a, b, step)| format!("{}-{}/{step}", a.min(b), a.max(b))),
        2 => prop::collection::btree_set(value, 2..9)
            .prop_map(|set| set.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")),
    ]
}

fn day_of_month() -> impl Strategy<Value = String> {
    prop_oneof![6 => field(1, 31), 1 => Just("L".to_owned()), 1 => Just("LW".to_owned()), 1 => (1_u16..31).prop_map(|day| format!("{day}W"))]
}

fn weekday() -> impl Strategy<Value = String> {
    prop_oneof![6 => field(0, 6), 1 => (0_u16..7, 1_u16..6).prop_map(|(day, number)| format!("{day}#{number}")), 1 => (0_u16..7).prop_map(|day| format!("{day}L")), 1 => (0_u16..7).prop_map(|day| format!("+{day}"))]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Nothing is left out: whoever reads the words knows the values of every field.
    #[test]
    fn two_expressions_with_one_description_say_the_same(
        expressions in prop::collection::vec(
            (prop_oneof![2 => Just("0".to_owned()), 1 => field(0, 59)], field(0, 59), field(0, 23), day_of_month(), field(1, 12), weekday()),
            200,
        ),
    ) {
        for language in [Language::English, Language::Chinese] {
            let mut known: HashMap<String, (Fields, String)> = HashMap::new();
            for (second, minute, hour, day, month, weekday) in &expressions {
                let text = format!("{second} {minute} {hour} {day} {month} {weekday}");
                let Some(pattern) = cron::pattern(&text) else { continue };
                let mut fields = Fields::new(&pattern);
                // Without days or without weekdays there is nothing to be in both of.
                fields.both &= fields.days.is_some() && fields.weekdays.is_some();
                let said = describe_cron(&text, language).unwrap();
                prop_assert!(!said.contains("  ") && !said.is_empty(), "{said}");
                if let Some((other, other_text)) = known.get(&said) {
                    prop_assert_eq!(&fields, other, "`{}` and `{}` are both: {}", text, other_text, said);
                }
                known.insert(said, (fields, text));
            }
        }
    }
}
