//! What tasks are filtered by, beside the table: an array for each facet, so that a filter over a million
//! tasks is a pass over a few megabytes and touches only the tasks that it shows.

use std::collections::HashMap;

use memchr::memmem::Finder;

use super::table::BLOCK;
use crate::def::Def;

/// No executor, no owner, no group.
const NOTHING: u32 = u32::MAX;
/// Stands between texts: never a byte of UTF-8.
const BETWEEN: u8 = 0xff;

/// The facets of all tasks by place.
#[derive(Debug, Default)]
pub(super) struct Facets {
    executors: Vec<u32>,
    owners: Vec<u32>,
    groups: Vec<u32>,
    names: Names,
    /// By block; made when a text is first looked for, and anew when a task of the block has changed.
    texts: Vec<Option<Texts>>,
}

/// What a filter asks for, in numbers.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wanted {
    pub(super) executor: Option<u32>,
    pub(super) owner: Option<u32>,
    pub(super) group: Option<u32>,
}

impl Facets {
    pub(super) fn set(&mut self, place: u32, def: &Def) {
        let at = place as usize;
        for array in [&mut self.executors, &mut self.owners, &mut self.groups] {
            if array.len() <= at {
                array.resize(at + 1, NOTHING);
            }
        }
        self.clear(place);
        let owner = def.owner().map_or(NOTHING, |owner| self.names.enter(owner));
        let group = def.group().map_or(NOTHING, |group| self.names.enter(&group.name));
        let values = [def.executor.0, owner, group];
        for (array, value) in
            [&mut self.executors, &mut self.owners, &mut self.groups].into_iter().zip(values)
        {
            if let Some(place) = array.get_mut(at) {
                *place = value;
            }
        }
    }

    /// The place has no task any more, or another one.
    pub(super) fn clear(&mut self, place: u32) {
        let at = place as usize;
        if let Some(executor) = self.executors.get_mut(at) {
            *executor = NOTHING;
        }
        for array in [&mut self.owners, &mut self.groups] {
            if let Some(name) = array.get_mut(at) {
                self.names.leave(std::mem::replace(name, NOTHING));
            }
        }
        if let Some(texts) = self.texts.get_mut(at / BLOCK) {
            *texts = None;
        }
    }

    /// The number of an owner or a group, if any task has it.
    pub(super) fn name(&self, name: &str) -> Option<u32> {
        self.names.by_name.get(name).copied()
    }

    /// Those of the places in `[from, until)` that have what is wanted; all of them if nothing is.
    pub(super) fn matching(&self, wanted: &Wanted, from: u32, until: u32, out: &mut Vec<u32>) {
        let asked =
            [(&self.owners, wanted.owner), (&self.groups, wanted.group), (&self.executors, wanted.executor)];
        let mut asked = asked.iter().filter_map(|(array, value)| value.map(|value| (*array, value)));
        let Some((array, value)) = asked.next() else {
            out.extend(from..until);
            return;
        };
        let range = array.get(from as usize..until as usize).unwrap_or_default();
        out.extend((from..).zip(range).filter(|(_, present)| **present == value).map(|(place, _)| place));
        for (array, value) in asked {
            out.retain(|place| array.get(*place as usize) == Some(&value));
        }
    }

    pub(super) fn has(&self, wanted: &Wanted, place: u32) -> bool {
        let has = |array: &[u32], value: Option<u32>| {
            value.is_none_or(|value| array.get(place as usize) == Some(&value))
        };
        has(&self.executors, wanted.executor)
            && has(&self.owners, wanted.owner)
            && has(&self.groups, wanted.group)
    }

    /// The texts of a block; `defs` are its places in their order, for where they are not there yet. Tells
    /// whether they had to be made.
    pub(super) fn texts<'a>(
        &mut self,
        block: usize,
        defs: impl Iterator<Item = Option<&'a Def>>,
    ) -> (&Texts, bool) {
        if self.texts.len() <= block {
            self.texts.resize_with(block + 1, || None);
        }
        let Some(texts) = self.texts.get_mut(block) else { return (&EMPTY, false) };
        let is_new = texts.is_none();
        (texts.get_or_insert_with(|| Texts::of(defs)), is_new)
    }
}

static EMPTY: Texts = Texts { text: Vec::new(), ends: Vec::new() };

/// The ids and names of a block of tasks in lower case, one after the other.
#[derive(Debug)]
pub(super) struct Texts {
    text: Vec<u8>,
    /// Where the text of each place ends.
    ends: Vec<u32>,
}

impl Texts {
    fn of<'a>(defs: impl Iterator<Item = Option<&'a Def>>) -> Self {
        let mut texts = Self { text: Vec::new(), ends: Vec::with_capacity(BLOCK) };
        for def in defs {
            if let Some(def) = def {
                for part in [&def.id, &def.name].into_iter().filter(|part| !part.is_empty()) {
                    texts.text.extend_from_slice(part.to_lowercase().as_bytes());
                    texts.text.push(BETWEEN);
                }
            }
            texts.ends.push(u32::try_from(texts.text.len()).unwrap_or(u32::MAX));
        }
        texts.text.shrink_to_fit();
        texts
    }

    /// The places of the block that have the text, counted from its first.
    pub(super) fn find(&self, needle: &Finder<'_>, mut found: impl FnMut(u32)) {
        let mut at = 0;
        let mut places = self.ends.iter().zip(0_u32..);
        while let Some(hit) = self.text.get(at..).and_then(|rest| needle.find(rest)) {
            let hit = at + hit;
            let Some((end, place)) = places.find(|(end, _)| **end as usize > hit) else { return };
            found(place);
            at = *end as usize;
        }
    }
}

/// Numbers for texts that many tasks have in common.
#[derive(Debug, Default)]
struct Names {
    by_name: HashMap<Box<str>, u32>,
    /// By number: the name, and how many tasks have it.
    entries: Vec<(Box<str>, u32)>,
    free: Vec<u32>,
}

impl Names {
    fn enter(&mut self, name: &str) -> u32 {
        if let Some(number) = self.by_name.get(name).copied() {
            if let Some((_, uses)) = self.entries.get_mut(number as usize) {
                *uses += 1;
            }
            return number;
        }
        let entry = (Box::<str>::from(name), 1);
        let number = match self.free.pop() {
            Some(number) => {
                if let Some(free) = self.entries.get_mut(number as usize) {
                    *free = entry;
                }
                number
            }
            None => {
                self.entries.push(entry);
                self.entries.len() as u32 - 1
            }
        };
        self.by_name.insert(name.into(), number);
        number
    }

    fn leave(&mut self, number: u32) {
        let Some((name, uses)) = self.entries.get_mut(number as usize) else { return };
        *uses -= 1;
        if *uses == 0 {
            self.by_name.remove(&std::mem::take(name));
            self.free.push(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_number_until_nobody_has_it() {
        let mut names = Names::default();
        let (a, b) = (names.enter("a"), names.enter("b"));
        assert_eq!(names.enter("a"), a);
        names.leave(a);
        assert_eq!(names.by_name.get("a"), Some(&a));
        names.leave(a);
        assert_eq!(names.by_name.get("a"), None);
        assert_eq!(names.enter("c"), a, "the number is used again");
        names.leave(NOTHING);
        assert_eq!((names.by_name.len(), names.by_name.get("b")), (2, Some(&b)));
    }

    #[test]
    fn texts_are_found_once_for_each_place_and_not_across_two() {
        let texts = Texts { text: b"aba\xffab\xff\xffbab\xff".to_vec(), ends: vec![4, 7, 8, 12] };
        let find = |needle: &str| {
            let mut found = Vec::new();
            texts.find(&Finder::new(needle), |place| found.push(place));
            found
        };
        assert_eq!(find("ab"), [0, 1, 3]);
        assert_eq!(find("ba"), [0, 3]);
        assert_eq!(find("aab"), [0_u32; 0]);
        assert_eq!(find("b"), [0, 1, 3]);
    }
}
