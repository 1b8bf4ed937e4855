//! Policies that are written as a text where nothing but their name is said, and as an object else.

use std::fmt;

use runtime::DurationText;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{After, AfterCondition, FailureBackoff, Group, Misfire, MisfirePolicy, default_factor};

/// Reads either a text or a map of the known fields, so that the short form of a policy is its name.
struct TextOr<T>(std::marker::PhantomData<T>);

/// What a short form and a long form decode to.
trait ShortForm: Sized {
    const EXPECTS: &'static str;
    fn from_text<E: de::Error>(text: &str) -> Result<Self, E>;
    fn from_map<'de, A: MapAccess<'de>>(map: A) -> Result<Self, A::Error>;
}

impl<'de, T: ShortForm> Visitor<'de> for TextOr<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTS)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        T::from_text(text)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::from_map(map)
    }
}

macro_rules! deserialize_short_form {
    ($($type:ty),*) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(TextOr::<$type>(std::marker::PhantomData))
            }
        }
    )*};
}
deserialize_short_form!(Misfire, Group, After, FailureBackoff);

impl ShortForm for Misfire {
    const EXPECTS: &'static str =
        "a misfire policy, `skip`, `run_once` or `run_all`, or an object with `policy`";

    fn from_text<E: de::Error>(text: &str) -> Result<Self, E> {
        let policy = MisfirePolicy::deserialize(de::value::StrDeserializer::<E>::new(text))?;
        Ok(Self { policy, ..Self::default() })
    }

    fn from_map<'de, A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Long {
            #[serde(default)]
            policy: MisfirePolicy,
            #[serde(default)]
            limit: Option<u32>,
            #[serde(default)]
            window: Option<DurationText>,
        }
        let Long { policy, limit, window } = Long::deserialize(de::value::MapAccessDeserializer::new(map))?;
        Ok(Self { policy, limit, window })
    }
}

impl ShortForm for Group {
    const EXPECTS: &'static str = "the name of a group, or an object with `name` and `limit`";

    fn from_text<E: de::Error>(text: &str) -> Result<Self, E> {
        Ok(Self { name: text.to_owned(), limit: 1 })
    }

    fn from_map<'de, A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Long {
            name: String,
            #[serde(default = "one")]
            limit: u32,
        }
        const fn one() -> u32 {
            1
        }
        let Long { name, limit } = Long::deserialize(de::value::MapAccessDeserializer::new(map))?;
        Ok(Self { name, limit })
    }
}

impl ShortForm for After {
    const EXPECTS: &'static str = "the id of a task, or an object with `task` and `on`";

    fn from_text<E: de::Error>(text: &str) -> Result<Self, E> {
        Ok(Self::success(text))
    }

    fn from_map<'de, A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Long {
            task: String,
            #[serde(default)]
            on: AfterCondition,
            #[serde(default)]
            into: Option<String>,
        }
        let Long { task, on, into } = Long::deserialize(de::value::MapAccessDeserializer::new(map))?;
        Ok(Self { task, on, into })
    }
}

impl ShortForm for FailureBackoff {
    const EXPECTS: &'static str = "a duration such as `1m`, or an object with `delay`";

    fn from_text<E: de::Error>(text: &str) -> Result<Self, E> {
        let delay = DurationText::deserialize(de::value::StrDeserializer::<E>::new(text))?;
        Ok(Self::new(delay.0))
    }

    fn from_map<'de, A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Long {
            delay: DurationText,
            #[serde(default = "default_factor")]
            factor: f64,
            #[serde(default)]
            max_delay: Option<DurationText>,
        }
        let Long { delay, factor, max_delay } =
            Long::deserialize(de::value::MapAccessDeserializer::new(map))?;
        let short = Self::new(delay.0);
        Ok(Self { factor, max_delay: max_delay.unwrap_or(short.max_delay), ..short })
    }
}
