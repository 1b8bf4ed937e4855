//! Pages of a list.

use std::str::FromStr;

use serde::Serialize;

use crate::Problem;

/// How many entries a page has where the caller says nothing.
pub const PAGE_DEFAULT: usize = 100;
/// How many entries a page has at the most.
pub const PAGE_MAX: usize = 1000;

/// Which page of a list, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    limit: usize,
    cursor: Option<String>,
}

/// How long a cursor may be, in bytes.
const CURSOR_LEN_MAX: usize = 512;

impl PageRequest {
    /// Checks what a caller asked for.
    ///
    /// # Errors
    ///
    /// A problem with the field `limit` or `cursor`.
    pub fn new(limit: Option<u64>, cursor: Option<String>) -> Result<Self, Problem> {
        let limit = match limit {
            None => PAGE_DEFAULT,
            Some(limit) => usize::try_from(limit)
                .ok()
                .filter(|limit| (1..=PAGE_MAX).contains(limit))
                .ok_or_else(|| Problem::invalid("limit", format!("must be between 1 and {PAGE_MAX}")))?,
        };
        match &cursor {
            Some(cursor) if cursor.is_empty() || cursor.len() > CURSOR_LEN_MAX => {
                Err(Problem::invalid("cursor", "not a cursor that a list gave"))
            }
            _ => Ok(Self { limit, cursor }),
        }
    }

    /// How many entries at the most.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Where the page before ended.
    #[must_use]
    pub fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    /// The same, where a list's cursors are ids of some kind.
    ///
    /// # Errors
    ///
    /// A problem with the field `cursor`, if it is none of them.
    pub fn cursor_as<T: FromStr>(&self) -> Result<Option<T>, Problem> {
        let refused = |_| Problem::invalid("cursor", "not a cursor that this list gave");
        self.cursor().map(|cursor| cursor.parse().map_err(refused)).transpose()
    }

    /// The page of a list that is there whole and sorted by a unique name: the entries after the cursor.
    #[must_use]
    pub fn of_sorted<T>(&self, all: Vec<T>, name: impl Fn(&T) -> &str) -> Page<T> {
        let total = all.len() as u64;
        let mut items: Vec<T> =
            all.into_iter().filter(|item| self.cursor().is_none_or(|cursor| name(item) > cursor)).collect();
        let more = items.len() > self.limit;
        items.truncate(self.limit);
        let next_cursor = if more { items.last().map(|last| name(last).to_owned()) } else { None };
        Page { items, total, next_cursor }
    }
}

impl Default for PageRequest {
    fn default() -> Self {
        Self { limit: PAGE_DEFAULT, cursor: None }
    }
}

impl From<&PageRequest> for scheduler::Page {
    fn from(page: &PageRequest) -> Self {
        Self { limit: page.limit, cursor: page.cursor.clone() }
    }
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Page<T> {
    /// The entries.
    pub items: Vec<T>,
    /// How many there are on all pages.
    pub total: u64,
    /// What to ask the next page with; nothing on the last.
    pub next_cursor: Option<String>,
}

impl<T> From<scheduler::Paged<T>> for Page<T> {
    fn from(page: scheduler::Paged<T>) -> Self {
        Self { items: page.items, total: page.total, next_cursor: page.next_cursor }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_checked() {
        assert_eq!(PageRequest::new(None, None).unwrap().limit(), 100);
        for limit in [0, 1001, u64::MAX] {
            let problem = PageRequest::new(Some(limit), None).unwrap_err();
            assert_eq!(problem.field.as_deref(), Some("limit"));
        }
        assert!(PageRequest::new(None, Some("x".repeat(513))).is_err());
    }

    #[test]
    fn pages_follow_each_other_without_a_gap() {
        let all: Vec<String> = (0..25).map(|n| format!("p{n:02}")).collect();
        let mut seen = Vec::new();
        let mut cursor = None;
        loop {
            let page = PageRequest::new(Some(10), cursor).unwrap().of_sorted(all.clone(), String::as_str);
            assert_eq!(page.total, 25);
            seen.extend(page.items);
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(seen, all);
    }
}
