//! Many tasks at once: one action on all that match, all of them out, and others in.

use scheduler::{BulkReport, BulkRequest, Import, ImportReport, OnConflict, Scheduler};

use crate::{Caller, Management, Permission, Problem};

/// All tasks as JSON Lines, part by part.
#[derive(Debug)]
pub struct TaskExport {
    scheduler: Scheduler,
    from: Option<u32>,
}

impl TaskExport {
    /// The next lines, of a few hundred tasks; nothing at the end.
    pub fn next_lines(&mut self) -> Option<Vec<u8>> {
        let (lines, next) = self.scheduler.export(self.from?);
        self.from = next;
        let mut text = Vec::with_capacity(lines.len() * 256);
        for line in lines {
            // It was read from JSON, or could have been.
            if serde_json::to_writer(&mut text, &line).is_ok() {
                text.push(b'\n');
            }
        }
        Some(text)
    }
}

impl Management {
    /// Pauses, resumes, cancels or removes all tasks that match, up to a limit.
    ///
    /// # Errors
    ///
    /// `invalid_field`. That it is refused for one of the tasks is in the report.
    pub async fn bulk_tasks(&self, caller: &Caller, request: &BulkRequest) -> Result<BulkReport, Problem> {
        let filter = serde_json::to_string(&request.filter).unwrap_or_default();
        let target = format!("{} {filter}", request.action.as_str());
        self.write(caller, Permission::TaskBulk, &target, async |dry_run| {
            Ok(self.scheduler()?.bulk(request, dry_run).await?)
        })
        .await
    }

    /// All tasks, to be written as JSON Lines.
    ///
    /// # Errors
    ///
    /// For callers without a role, and where the host has no scheduler.
    pub fn export_tasks(&self, caller: &Caller) -> Result<TaskExport, Problem> {
        caller.require(Permission::TaskRead)?;
        Ok(TaskExport { scheduler: self.scheduler()?.clone(), from: Some(0) })
    }

    /// Begins to read tasks in. Nothing changes before [`Management::commit_import`].
    ///
    /// # Errors
    ///
    /// For callers who may not, and where the host has no scheduler.
    pub fn begin_import(&self, caller: &Caller, on_conflict: OnConflict) -> Result<Import, Problem> {
        caller.require(Permission::TaskImport)?;
        Ok(self.scheduler()?.import(on_conflict))
    }

    /// Takes what has been read, all or nothing. What could not be read is refused here, so that the audit log
    /// has it.
    ///
    /// # Errors
    ///
    /// `invalid_field` with the line and the field within it.
    pub async fn commit_import(
        &self,
        caller: &Caller,
        read: Result<Import, Problem>,
    ) -> Result<ImportReport, Problem> {
        self.write(caller, Permission::TaskImport, "", async |dry_run| Ok(read?.commit(dry_run).await?)).await
    }
}
