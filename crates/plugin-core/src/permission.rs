//! What a plugin may do.

use std::fmt;
use std::str::FromStr;

use event_bus::{Pattern, Topic};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One thing that a plugin may do, declared in its manifest and granted by the host.
///
/// As text: `service:use:NAME`, `service:provide:NAME`, `event:publish:PATTERN`,
/// `event:subscribe:PATTERN`, `route:PREFIX`, `task`, `net:HOST`, `fs:PATH`. A `NAME` or `HOST` may be
/// `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Permission {
    /// Use a service of this name.
    ServiceUse(String),
    /// Offer a service of this name.
    ServiceProvide(String),
    /// Publish events of these topics.
    EventPublish(Pattern),
    /// Receive events that this pattern takes in.
    EventSubscribe(Pattern),
    /// Serve routes, and wrap any plugin's routes in middleware, under this path prefix.
    Route(String),
    /// Register executors and tasks.
    Task,
    /// Open connections to this host.
    Net(String),
    /// Read and write under this path.
    Fs(String),
}

/// Why a text is not a permission.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a permission: {why}")]
pub struct InvalidPermission {
    text: String,
    why: &'static str,
}

impl FromStr for Permission {
    type Err = InvalidPermission;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = |why| InvalidPermission { text: text.chars().take(120).collect(), why };
        if text == "task" {
            return Ok(Self::Task);
        }
        let (head, rest) = text.split_once(':').ok_or_else(|| refused("unknown kind"))?;
        let pattern = |rest: &str| Pattern::new(rest).map_err(|_| refused("not a topic pattern"));
        let named = |rest: &str| {
            if rest.is_empty() {
                Err(refused("the part after the last `:` is empty"))
            } else {
                Ok(rest.to_owned())
            }
        };
        match head {
            "service" => match rest.split_once(':') {
                Some(("use", name)) => Ok(Self::ServiceUse(named(name)?)),
                Some(("provide", name)) => Ok(Self::ServiceProvide(named(name)?)),
                _ => Err(refused("expected `service:use:NAME` or `service:provide:NAME`")),
            },
            "event" => match rest.split_once(':') {
                Some(("publish", topics)) => Ok(Self::EventPublish(pattern(topics)?)),
                Some(("subscribe", topics)) => Ok(Self::EventSubscribe(pattern(topics)?)),
                _ => Err(refused("expected `event:publish:PATTERN` or `event:subscribe:PATTERN`")),
            },
            "route" if rest.starts_with('/') => Ok(Self::Route(rest.trim_end_matches('/').to_owned())),
            "route" => Err(refused("the prefix does not begin with `/`")),
            "net" => Ok(Self::Net(named(rest)?)),
            "fs" => Ok(Self::Fs(named(rest)?)),
            _ => Err(refused("unknown kind")),
        }
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ServiceUse(name) => write!(f, "service:use:{name}"),
            Self::ServiceProvide(name) => write!(f, "service:provide:{name}"),
            Self::EventPublish(pattern) => write!(f, "event:publish:{pattern}"),
            Self::EventSubscribe(pattern) => write!(f, "event:subscribe:{pattern}"),
            Self::Route(prefix) if prefix.is_empty() => f.write_str("route:/"),
            Self::Route(prefix) => write!(f, "route:{prefix}"),
            Self::Task => f.write_str("task"),
            Self::Net(host) => write!(f, "net:{host}"),
            Self::Fs(path) => write!(f, "fs:{path}"),
        }
    }
}

impl Serialize for Permission {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Permission {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What one plugin has been granted. Asking costs time in the number of grants, which is small.
#[derive(Debug, Clone, Default)]
pub struct Permissions(Vec<Permission>);

impl Permissions {
    /// These, and nothing else.
    #[must_use]
    pub fn new(granted: Vec<Permission>) -> Self {
        Self(granted)
    }

    /// What has been granted.
    #[must_use]
    pub fn granted(&self) -> &[Permission] {
        &self.0
    }

    /// Whether the plugin may use the service `name`.
    #[must_use]
    pub fn may_use(&self, name: &str) -> bool {
        self.0.iter().any(|p| matches!(p, Permission::ServiceUse(n) if n == name || n == "*"))
    }

    /// Whether the plugin may offer the service `name`.
    #[must_use]
    pub fn may_provide(&self, name: &str) -> bool {
        self.0.iter().any(|p| matches!(p, Permission::ServiceProvide(n) if n == name || n == "*"))
    }

    /// Whether the plugin may publish events of `topic`. The host's own topics are not asked about here.
    #[must_use]
    pub fn may_publish(&self, topic: &Topic) -> bool {
        self.0.iter().any(|p| matches!(p, Permission::EventPublish(allowed) if allowed.matches(topic)))
    }

    /// Whether the plugin may subscribe to `pattern`: one grant has to take in all that the pattern does.
    #[must_use]
    pub fn may_subscribe(&self, pattern: &Pattern) -> bool {
        self.0.iter().any(|p| matches!(p, Permission::EventSubscribe(allowed) if covers(allowed, pattern)))
    }

    /// Whether the plugin may publish events of every topic that `pattern` takes in.
    pub(crate) fn may_publish_all(&self, pattern: &Pattern) -> bool {
        self.0.iter().any(|p| matches!(p, Permission::EventPublish(allowed) if covers(allowed, pattern)))
    }

    /// Whether the plugin may serve `path`.
    #[must_use]
    pub fn may_route(&self, path: &str) -> bool {
        self.0.iter().any(|p| match p {
            Permission::Route(prefix) => path
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            _ => false,
        })
    }

    /// Whether the plugin may serve anything at all, as it must to wrap routes in middleware.
    #[must_use]
    pub fn may_route_anything(&self) -> bool {
        self.0.iter().any(|p| matches!(p, Permission::Route(_)))
    }

    /// Whether the plugin may register executors and tasks.
    #[must_use]
    pub fn may_schedule(&self) -> bool {
        self.0.contains(&Permission::Task)
    }
}

/// Whether every topic that `asked` matches is matched by `allowed`, too. Costs time in the product of both
/// lengths at the most, whatever wildcards a package's manifest asks for.
fn covers(allowed: &Pattern, asked: &Pattern) -> bool {
    let (allowed, asked) = (allowed.as_str(), asked.as_str());
    let (allowed, asked): (Vec<_>, Vec<_>) = (allowed.split('.').collect(), asked.split('.').collect());
    // `covered[j]`: what is left of `allowed` takes in `asked[j..]`; from the end, with nothing left at first.
    let mut covered = vec![false; asked.len() + 1];
    covered[asked.len()] = true;
    for segment in allowed.into_iter().rev() {
        let mut with = vec![false; asked.len() + 1];
        with[asked.len()] = segment == "**" && covered[asked.len()];
        for (j, asked) in asked.iter().enumerate().rev() {
            with[j] = match segment {
                // Takes in nothing, or one more segment of any kind.
                "**" => covered[j] || with[j + 1],
                // Only `**` takes in `**`.
                "*" => *asked != "**" && covered[j + 1],
                literal => *asked == literal && covered[j + 1],
            };
        }
        covered = with;
    }
    covered[0]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn granted(text: &str) -> Permissions {
        Permissions::new(text.split_whitespace().map(|p| p.parse().unwrap()).collect())
    }

    #[test]
    fn reads_and_writes_each_kind() {
        for text in [
            "service:use:redis-cluster",
            "service:provide:greeter",
            "event:publish:orders.*",
            "event:subscribe:orders.**",
            "route:/greeter",
            "task",
            "net:example.org",
            "fs:/var/lib/x",
        ] {
            assert_eq!(text.parse::<Permission>().unwrap().to_string(), text);
        }
        for text in
            ["", "tasks", "service:use:", "service:x:y", "route:greeter", "event:publish:a..b", "net:", "x:y"]
        {
            assert!(text.parse::<Permission>().is_err(), "{text}");
        }
    }

    #[test]
    fn grants_what_was_granted_and_nothing_else() {
        let p = granted("service:use:a event:publish:orders.* event:subscribe:orders.** route:/greeter");
        assert!(p.may_use("a") && !p.may_use("b") && !p.may_provide("a"));
        assert!(p.may_publish(&Topic::new("orders.new").unwrap()));
        assert!(!p.may_publish(&Topic::new("orders.new.x").unwrap()));
        assert!(p.may_route("/greeter") && p.may_route("/greeter/x") && !p.may_route("/greeters"));
        assert!(!p.may_schedule() && granted("task").may_schedule());
        assert!(granted("route:/").may_route("/anything"));
    }

    #[test]
    fn a_wider_subscription_than_granted_is_refused() {
        for (grant, asked, expected) in [
            ("orders.**", "orders.*", true),
            ("orders.**", "orders.**", true),
            ("orders.**", "orders", true),
            ("orders.*", "orders.**", false),
            ("orders.*", "orders.new", true),
            ("orders.new", "orders.*", false),
            ("**", "**", true),
            ("**.new", "orders.*.new", true),
            ("a.**", "**", false),
        ] {
            let p = granted(&format!("event:subscribe:{grant}"));
            assert_eq!(p.may_subscribe(&Pattern::new(asked).unwrap()), expected, "{grant} {asked}");
        }
    }

    #[test]
    fn many_wildcards_cost_no_time() {
        let grant = format!("event:subscribe:{}b", "**.a.".repeat(30));
        assert!(!granted(&grant).may_subscribe(&Pattern::new(["a"; 100].join(".")).unwrap()));
    }

    fn segments(with: &'static [&'static str]) -> impl Strategy<Value = String> {
        proptest::collection::vec(proptest::sample::select(with), 1..5).prop_map(|s| s.join("."))
    }

    proptest! {
        #[test]
        fn a_topic_that_a_covered_pattern_takes_in_is_taken_in_by_the_grant(
            grant in segments(&["a", "b", "*", "**"]),
            asked in segments(&["a", "b", "*", "**"]),
            topic in segments(&["a", "b"]),
        ) {
            let (grant, asked) = (Pattern::new(&grant), Pattern::new(&asked));
            if let (Ok(grant), Ok(asked)) = (grant, asked) {
                let topic = Topic::new(&topic).unwrap();
                if covers(&grant, &asked) && asked.matches(&topic) {
                    prop_assert!(grant.matches(&topic));
                }
            }
        }
    }
}
