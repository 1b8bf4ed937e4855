//! What a run gets from the runs that it comes after.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::def::{Def, payload_text};
use crate::executor::RunError;
use crate::id::RunId;
use crate::view::RunOutcome;

/// The run of another task that let this one go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamRun {
    /// The id of that task.
    pub task: String,
    /// That run.
    pub run: RunId,
    /// The first run of the chain that it belongs to.
    pub chain: RunId,
    /// How it ended.
    pub outcome: RunOutcome,
    /// Why it failed, or was cancelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What it gave back, as JSON text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_json: Option<String>,
    /// Whether it gave back more than is kept, so that nothing of it is here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub output_too_large: bool,
}

impl UpstreamRun {
    /// What it gave back; null for nothing.
    #[must_use]
    pub fn output(&self) -> Value {
        self.output_json.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null)
    }

    /// What it gave back, as a type of one's own.
    ///
    /// # Errors
    ///
    /// A permanent failure, if it is not of that type.
    pub fn output_as<T: DeserializeOwned>(&self) -> Result<T, RunError> {
        serde_json::from_str(self.output_json.as_deref().unwrap_or("null"))
            .map_err(|error| RunError::permanent(format!("output of `{}`: {error}", self.task)))
    }
}

/// The runs that let a run go, in the order of its task's `after`.
#[derive(Debug)]
pub(crate) struct Caused {
    pub(crate) by: Vec<Arc<UpstreamRun>>,
    pub(crate) chain: RunId,
}

impl Caused {
    /// The last one to end is the one whose chain goes on.
    pub(crate) fn new(by: Vec<Arc<UpstreamRun>>, last: &UpstreamRun) -> Self {
        Self { by, chain: last.chain }
    }

    /// What is left of them in a record: their ids.
    pub(crate) fn known_by_ids(chain: RunId, runs: &[RunId]) -> Self {
        let run = |run: &RunId| UpstreamRun {
            task: String::new(),
            run: *run,
            chain,
            outcome: RunOutcome::Completed,
            error: None,
            output_json: None,
            output_too_large: false,
        };
        Self { by: runs.iter().map(run).map(Arc::new).collect(), chain }
    }

    /// The task's payload with the outputs put in that it asks for, if it asks for any.
    pub(crate) fn payload(&self, def: &Def) -> Result<Option<Arc<str>>, String> {
        let mut payload = None;
        for (edge, run) in def.after().iter().zip(&self.by) {
            let Some(into) = &edge.into else { continue };
            if run.output_too_large {
                return Err(format!("the output of `{}` is larger than 4 KiB", run.task));
            }
            if run.output_json.is_none() {
                continue;
            }
            let patch = pointer_tokens(into)
                .rev()
                .fold(run.output(), |value, token| serde_json::json!({ token: value }));
            merge_patch(payload.get_or_insert_with(|| def.payload_value()), patch);
        }
        let Some(payload) = payload else { return Ok(None) };
        match payload_text("payload", &payload) {
            Ok(text) => Ok(Some(text.map_or_else(|| "null".into(), Arc::from))),
            Err(_) => Err("the payload is larger than 64 KiB with the outputs put in".to_owned()),
        }
    }
}

/// Whether a text is a JSON Pointer (RFC 6901).
pub(crate) fn is_pointer(text: &str) -> bool {
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('~') {
        if !after.starts_with(['0', '1']) {
            return false;
        }
        rest = after;
    }
    text.is_empty() || text.starts_with('/')
}

fn pointer_tokens(pointer: &str) -> impl DoubleEndedIterator<Item = String> {
    pointer
        .split('/')
        .skip(1)
        .map(|token| token.replace("~1", "/").replace("~0", "~"))
        .collect::<Vec<_>>()
        .into_iter()
}

/// Puts `patch` into `target` by RFC 7396.
fn merge_patch(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(&key);
        } else {
            merge_patch(target.entry(key).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The cases of RFC 7396, appendix A.
    #[test]
    fn patches_merge_as_the_rfc_says() {
        for (target, patch, result) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a": "b"}), json!(["c"]), json!(["c"])),
            (json!({"a": "foo"}), json!(null), json!(null)),
            (json!({"a": "foo"}), json!("bar"), json!("bar")),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            let mut merged = target.clone();
            merge_patch(&mut merged, patch.clone());
            assert_eq!(merged, result, "{target} with {patch}");
        }
    }

    #[test]
    fn pointers_are_checked_and_read() {
        for good in ["", "/", "/a", "/a/b", "/a~1b", "/m~0n", "/~01"] {
            assert!(is_pointer(good), "{good}");
        }
        for bad in ["a", "a/b", "/~", "/~2", "/a~"] {
            assert!(!is_pointer(bad), "{bad}");
        }
        assert_eq!(pointer_tokens("/a~1b/m~0n/~01").collect::<Vec<_>>(), ["a/b", "m~n", "~1"]);
        assert_eq!(pointer_tokens("").count(), 0);
    }
}
