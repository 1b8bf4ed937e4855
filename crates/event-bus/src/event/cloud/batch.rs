//! CloudEvents 1.0, JSON batch format: an array of events.

use runtime::Clock;
use serde_json::Value;

use super::CloudEventError;
use crate::event::Event;

/// The most events in one batch.
pub const MAX_BATCH_EVENTS: usize = 1000;

/// Why a batch was refused, all of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// There are too many.
    #[error("batch: has {0} events, at most {MAX_BATCH_EVENTS} are allowed")]
    TooMany(usize),
    /// An item is no object.
    #[error("[{0}]: must be an object")]
    Type(usize),
    /// An item is no event.
    #[error("[{index}].{error}")]
    Event {
        /// Its place, counted from 0.
        index: usize,
        /// What is wrong with it.
        error: CloudEventError,
    },
}

impl BatchError {
    /// What was refused: the place and the attribute, such as `[2].source`.
    #[must_use]
    pub fn field(&self) -> String {
        match self {
            Self::TooMany(_) => "batch".to_owned(),
            Self::Type(index) => format!("[{index}]"),
            Self::Event { index, error } => format!("[{index}].{}", error.field()),
        }
    }
}

impl Event {
    /// Reads the events of a batch, each as [`Event::from_json`] does, or none of them. An array of events
    /// is written by serializing a slice of them.
    ///
    /// # Errors
    ///
    /// [`BatchError`] names the first event that was refused.
    pub fn from_json_batch(
        items: Vec<Value>,
        clock: &(impl Clock + ?Sized),
        max_data_bytes: usize,
    ) -> Result<Vec<Self>, BatchError> {
        if items.len() > MAX_BATCH_EVENTS {
            return Err(BatchError::TooMany(items.len()));
        }
        let read = |(index, item)| match item {
            Value::Object(object) => Self::from_json(object, clock, max_data_bytes)
                .map_err(|error| BatchError::Event { index, error }),
            _ => Err(BatchError::Type(index)),
        };
        items.into_iter().enumerate().map(read).collect()
    }
}

#[cfg(test)]
mod tests {
    use runtime::SystemClock;
    use serde_json::json;

    use super::*;
    use crate::event::MAX_DATA_BYTES;

    fn read(items: Vec<Value>) -> Result<Vec<Event>, BatchError> {
        Event::from_json_batch(items, &SystemClock, MAX_DATA_BYTES)
    }

    #[test]
    fn a_batch_is_read_in_order_and_written_as_an_array() {
        let sent = json!([
            {"specversion": "1.0", "id": "1", "source": "s", "type": "a", "time": "2018-04-05T17:31:00Z"},
            {"specversion": "1.0", "id": "2", "source": "s", "type": "b", "time": "2018-04-05T17:31:00Z"},
        ]);
        let events = read(sent.as_array().cloned().unwrap()).unwrap();
        assert_eq!(serde_json::to_value(&events).unwrap(), sent);
        assert!(read(Vec::new()).unwrap().is_empty());
    }

    #[test]
    fn one_mistake_refuses_the_batch_and_is_named() {
        let fine = json!({"type": "a"});
        for (items, field, says) in [
            (vec![fine.clone(), json!({"type": ""})], "[1].type", "[1].topic: is empty"),
            (vec![json!("a")], "[0]", "[0]: must be an object"),
            (vec![fine; 1001], "batch", "batch: has 1001 events, at most 1000 are allowed"),
        ] {
            let error = read(items).unwrap_err();
            assert_eq!((error.field().as_str(), error.to_string().as_str()), (field, says));
        }
    }
}
