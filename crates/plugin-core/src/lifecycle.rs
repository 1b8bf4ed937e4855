//! The lifecycle of a plugin, as one table.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a plugin stands in its lifecycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Not there: never registered, or unloaded and forgotten.
    Unknown,
    /// Known to the host; nothing of it has run.
    Registered,
    /// `initialize` runs.
    Initializing,
    /// `initialize` has succeeded.
    Initialized,
    /// `start` or the first health check runs.
    Starting,
    /// Serves. Whether it is also *ready* stands beside the state.
    Running,
    /// Its registrations are being withdrawn, its work drained, `stop` runs.
    Stopping,
    /// `stop` has succeeded.
    Stopped,
    /// An operation failed, panicked or missed its deadline, or the supervisor gave up on it.
    Failed,
    /// Unloaded.
    Destroyed,
}

/// What moves a plugin from one state to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It becomes known, compiled in or loaded.
    Register,
    /// `initialize` is called.
    Initialize,
    /// `start` is called.
    Start,
    /// `stop` is called.
    Stop,
    /// It is removed.
    Unload,
    /// The operation under way succeeded.
    Done,
    /// The operation under way failed, panicked or missed its deadline.
    Fail,
    /// The supervisor gives up on a running plugin.
    GiveUp,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 10] = [
        Self::Unknown,
        Self::Registered,
        Self::Initializing,
        Self::Initialized,
        Self::Starting,
        Self::Running,
        Self::Stopping,
        Self::Stopped,
        Self::Failed,
        Self::Destroyed,
    ];

    /// The state that `action` leads to from here, or nothing if it is not allowed here.
    #[must_use]
    pub fn on(self, action: Action) -> Option<Self> {
        use Action as A;
        use State as S;
        Some(match (self, action) {
            (S::Unknown, A::Register) => S::Registered,
            (S::Registered | S::Stopped | S::Failed, A::Initialize) => S::Initializing,
            (S::Initializing, A::Done) => S::Initialized,
            (S::Initialized | S::Stopped, A::Start) => S::Starting,
            (S::Starting, A::Done) => S::Running,
            (S::Running, A::Stop) => S::Stopping,
            (S::Stopping, A::Done) => S::Stopped,
            (S::Initializing | S::Starting | S::Stopping, A::Fail) | (S::Running, A::GiveUp) => S::Failed,
            (S::Registered | S::Initialized | S::Stopped | S::Failed, A::Unload) => S::Destroyed,
            _ => return None,
        })
    }

    /// Whether an operation is under way, so that another request has to wait.
    #[must_use]
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Initializing | Self::Starting | Self::Stopping)
    }

    /// The state's name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Registered => "registered",
            Self::Initializing => "initializing",
            Self::Initialized => "initialized",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Destroyed => "destroyed",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ACTIONS: [Action; 8] = [
        Action::Register,
        Action::Initialize,
        Action::Start,
        Action::Stop,
        Action::Unload,
        Action::Done,
        Action::Fail,
        Action::GiveUp,
    ];

    /// The table as the design states it, written a second time and in another form.
    const DESIGN: &str = "
        unknown register registered
        registered initialize initializing
        stopped initialize initializing
        failed initialize initializing
        initializing done initialized
        initializing fail failed
        initialized start starting
        stopped start starting
        starting done running
        starting fail failed
        running stop stopping
        running give_up failed
        stopping done stopped
        stopping fail failed
        registered unload destroyed
        initialized unload destroyed
        stopped unload destroyed
        failed unload destroyed
    ";

    #[test]
    fn the_table_is_the_designs() {
        let mut table = Vec::new();
        for from in State::ALL {
            for action in ACTIONS {
                if let Some(to) = from.on(action) {
                    let action = serde_json::to_value(action).unwrap();
                    table.push(format!("{from} {} {to}", action.as_str().unwrap()));
                }
            }
        }
        let mut design: Vec<_> = DESIGN.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        table.sort();
        design.sort_unstable();
        assert_eq!(table, design);
    }

    #[test]
    fn names_on_the_wire_are_those_that_display_shows() {
        for state in State::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
    }

    proptest! {
        #[test]
        fn an_operation_under_way_ends_and_nothing_leaves_destroyed(
            actions in proptest::collection::vec(0..ACTIONS.len(), 0..60)
        ) {
            let mut state = State::Unknown;
            for action in actions {
                let next = state.on(ACTIONS[action]);
                if state == State::Destroyed {
                    prop_assert_eq!(next, None);
                }
                if state.is_transient() {
                    prop_assert!(state.on(Action::Done).is_some() && state.on(Action::Fail).is_some());
                    prop_assert!(state.on(Action::Start).is_none() && state.on(Action::Unload).is_none());
                }
                state = next.unwrap_or(state);
            }
        }
    }
}
