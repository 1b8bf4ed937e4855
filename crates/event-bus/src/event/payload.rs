//! What an event carries: JSON, or a value of any type that becomes JSON only when someone asks.

use std::any::{Any, type_name};
use std::fmt;
use std::sync::{Arc, OnceLock};

use serde::Serialize;
use serde_json::Value;

use crate::event::Event;

static NULL: Value = Value::Null;

/// A typed payload could not be turned into JSON.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("data: `{type_name}` has no json form: {reason}")]
pub struct PayloadError {
    type_name: &'static str,
    reason: String,
}

/// A payload.
pub(crate) enum Payload {
    None,
    Json(Value),
    /// Bytes of another content type, as CloudEvents carries them in JSON: base64 text.
    Base64(Value),
    Typed(Arc<dyn Typed>),
    /// The payload of another event.
    Shared(Event),
}

/// A value that crosses the process as it is.
pub(crate) trait Typed: Any + Send + Sync {
    fn as_any(&self) -> &dyn Any;
    fn json(&self) -> Result<&Value, PayloadError>;
}

pub(crate) struct TypedPayload<T> {
    value: T,
    json: OnceLock<Result<Value, PayloadError>>,
}

impl<T> TypedPayload<T> {
    pub(crate) fn value(&self) -> &T {
        &self.value
    }
}

impl<T: Serialize + Send + Sync + 'static> Typed for TypedPayload<T> {
    fn as_any(&self) -> &dyn Any {
        &self.value
    }

    fn json(&self) -> Result<&Value, PayloadError> {
        self.json
            .get_or_init(|| {
                serde_json::to_value(&self.value)
                    .map_err(|e| PayloadError { type_name: type_name::<T>(), reason: e.to_string() })
            })
            .as_ref()
            .map_err(Clone::clone)
    }
}

impl Payload {
    pub(crate) fn typed<T: Serialize + Send + Sync + 'static>(value: T) -> Self {
        Self::Typed(Arc::new(TypedPayload { value, json: OnceLock::new() }))
    }

    /// The payload itself, where it is shared.
    pub(crate) fn own(&self) -> &Self {
        let mut payload = self;
        while let Self::Shared(event) = payload {
            payload = event.payload();
        }
        payload
    }

    pub(crate) fn json(&self) -> Result<&Value, PayloadError> {
        match self {
            Self::None => Ok(&NULL),
            Self::Json(value) | Self::Base64(value) => Ok(value),
            Self::Typed(typed) => typed.json(),
            Self::Shared(event) => event.payload().json(),
        }
    }

    pub(crate) fn is_some(&self) -> bool {
        match self {
            Self::None => false,
            Self::Json(_) | Self::Base64(_) | Self::Typed(_) => true,
            Self::Shared(event) => event.payload().is_some(),
        }
    }

    pub(crate) fn downcast<T: 'static>(&self) -> Option<&T> {
        match self {
            Self::Typed(typed) => typed.as_any().downcast_ref(),
            Self::Shared(event) => event.payload().downcast(),
            Self::None | Self::Json(_) | Self::Base64(_) => None,
        }
    }

    /// The payload as it was published, to be kept.
    pub(crate) fn downcast_arc<T: Send + Sync + 'static>(&self) -> Option<Arc<TypedPayload<T>>> {
        let Self::Typed(typed) = self.own() else { return None };
        let typed: Arc<dyn Any + Send + Sync> = typed.clone();
        typed.downcast().ok()
    }

    /// About how many bytes the payload has as JSON text. A typed payload counts nothing: its size in
    /// memory is its maker's, and measuring it would mean serializing it.
    pub(crate) fn json_bytes(&self) -> usize {
        match self {
            Self::None | Self::Typed(_) => 0,
            Self::Json(value) | Self::Base64(value) => json_bytes(value),
            Self::Shared(event) => event.data_bytes(),
        }
    }
}

/// The length of the JSON text, escapes and exact digits of numbers aside.
fn json_bytes(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) => 4,
        Value::Number(_) => 8,
        Value::String(text) => text.len() + 2,
        Value::Array(items) => 2 + items.iter().map(|item| json_bytes(item) + 1).sum::<usize>(),
        Value::Object(map) => {
            2 + map.iter().map(|(key, item)| key.len() + json_bytes(item) + 4).sum::<usize>()
        }
    }
}

pub(crate) fn null() -> &'static Value {
    &NULL
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Json(value) | Self::Base64(value) => value.fmt(f),
            Self::Typed(_) => f.write_str("typed"),
            Self::Shared(event) => event.payload().fmt(f),
        }
    }
}
