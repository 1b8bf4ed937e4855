//! What each operation asks of its caller: the one table, for every transport.

use std::fmt;

use crate::Role;

/// One line for each operation, or for operations that are alike: its name in code, its name on the wire and in
/// the audit log, the role that it takes.
macro_rules! permissions {
    ($($(#[$doc:meta])* $variant:ident $name:literal $role:ident;)*) => {
        /// The right to do something. Each is had by one role and those above it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Permission {
            $($(#[$doc])* $variant,)*
        }

        impl Permission {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Its name: also that of the operation in the audit log.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// The lowest role that has it.
            #[must_use]
            pub const fn role(self) -> Role {
                match self { $(Self::$variant => Role::$role),* }
            }
        }
    };
}

permissions! {
    /// Sees who it is taken for.
    AccessRead "access.read" Viewer;
    /// Sees the health of every plugin.
    HealthRead "health.read" Viewer;
    /// Sees what is measured.
    MetricsRead "metrics.read" Viewer;
    /// Sees the configuration in force, secrets masked.
    ConfigRead "config.read" Viewer;
    /// Sees services and their instances.
    ServiceRead "service.read" Viewer;
    /// Sees the nodes.
    ClusterRead "cluster.read" Viewer;
    /// Sees plugins, their configuration and what types there are.
    PluginRead "plugin.read" Viewer;
    /// Sees and follows events, subscriptions and dead letters.
    EventRead "event.read" Viewer;
    /// Sees tasks and runs.
    TaskRead "task.read" Viewer;
    /// Publishes events.
    EventPublish "event.publish" Operator;
    /// Gives dead letters to their subscription again.
    DeadLetterRedrive "dead_letter.redrive" Operator;
    /// Gives dead letters up.
    DeadLetterDiscard "dead_letter.discard" Operator;
    /// Makes tasks.
    TaskCreate "task.create" Operator;
    /// Replaces tasks.
    TaskReplace "task.replace" Operator;
    /// Removes tasks.
    TaskRemove "task.remove" Operator;
    /// Pauses tasks.
    TaskPause "task.pause" Operator;
    /// Resumes tasks.
    TaskResume "task.resume" Operator;
    /// Cancels tasks and their runs.
    TaskCancel "task.cancel" Operator;
    /// Runs tasks now.
    TaskTrigger "task.trigger" Operator;
    /// Runs the missed times of tasks.
    TaskBackfill "task.backfill" Operator;
    /// Does one thing to many tasks.
    TaskBulk "task.bulk" Operator;
    /// Takes tasks in.
    TaskImport "task.import" Operator;
    /// Initializes plugins.
    PluginInitialize "plugin.initialize" Operator;
    /// Starts plugins.
    PluginStart "plugin.start" Operator;
    /// Stops plugins.
    PluginStop "plugin.stop" Operator;
    /// Restarts plugins.
    PluginRestart "plugin.restart" Operator;
    /// Changes the configuration of plugins.
    PluginConfigure "plugin.configure" Admin;
    /// Loads plugins.
    PluginLoad "plugin.load" Admin;
    /// Unloads plugins.
    PluginUnload "plugin.unload" Admin;
    /// Swaps plugins for other versions.
    PluginSwap "plugin.swap" Admin;
    /// Sees who did what.
    AuditRead "audit.read" Admin;
    /// Sees which API tokens there are.
    TokenRead "token.read" Admin;
    /// Makes API tokens.
    TokenCreate "token.create" Admin;
    /// Revokes API tokens.
    TokenRevoke "token.revoke" Admin;
}

impl Permission {
    /// The permission of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|permission| permission.name() == name)
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_name_of_its_own() {
        for permission in Permission::ALL {
            assert_eq!(Permission::named(permission.name()), Some(*permission));
        }
        assert_eq!(Permission::named("task.fly"), None);
    }

    /// Whoever may only look changes nothing, and what says who may do what is for the highest role.
    #[test]
    fn a_viewer_reads_and_nothing_else() {
        for permission in Permission::ALL {
            let reads = permission.name().ends_with(".read");
            if permission.role() == Role::Viewer {
                assert!(reads, "{permission}");
            }
            if ["token.", "audit."].iter().any(|of| permission.name().starts_with(of)) {
                assert_eq!(permission.role(), Role::Admin, "{permission}");
            }
        }
    }
}
