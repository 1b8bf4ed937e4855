//! What has to be done for the plugins to be what the folder says. Pure.

use std::collections::BTreeMap;

use plugin_core::PluginName;

use super::Definition;

/// A file as it was found.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Found {
    Good(Definition),
    /// It cannot be read; the text says why.
    Bad(String),
}

/// A file that has become a plugin.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct InForce {
    pub(super) name: PluginName,
    pub(super) definition: Definition,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    Load {
        file: String,
        definition: Definition,
    },
    /// The same plugin, another configuration; or, where it `swaps`, another type or version.
    Change {
        file: String,
        name: PluginName,
        definition: Definition,
        swaps: bool,
    },
    Unload {
        file: String,
        name: PluginName,
    },
    /// A file that cannot be read changes nothing.
    Broken {
        file: String,
        error: String,
    },
}

/// The steps, those that remove first: a file may have been renamed, and its plugin's name is to be free.
pub(super) fn plan(in_force: &BTreeMap<String, InForce>, found: &BTreeMap<String, Found>) -> Vec<Step> {
    let (mut unloads, mut rest) = (Vec::new(), Vec::new());
    for (file, InForce { name, .. }) in in_force {
        if !found.contains_key(file) {
            unloads.push(Step::Unload { file: file.clone(), name: name.clone() });
        }
    }
    for (file, found) in found {
        let file = file.clone();
        match (found, in_force.get(&file)) {
            (Found::Bad(error), _) => rest.push(Step::Broken { file, error: error.clone() }),
            (Found::Good(definition), None) => {
                if definition.enabled {
                    rest.push(Step::Load { file, definition: definition.clone() });
                }
            }
            (Found::Good(definition), Some(now)) if *definition == now.definition => {}
            (Found::Good(definition), Some(now)) => {
                let name = now.name.clone();
                if !definition.enabled || definition.name != now.definition.name {
                    unloads.push(Step::Unload { file: file.clone(), name });
                    if definition.enabled {
                        rest.push(Step::Load { file, definition: definition.clone() });
                    }
                } else {
                    let before = &now.definition;
                    let swaps =
                        (&definition.type_name, &definition.version) != (&before.type_name, &before.version);
                    rest.push(Step::Change { file, name, definition: definition.clone(), swaps });
                }
            }
        }
    }
    unloads.append(&mut rest);
    unloads
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(text: &str) -> Definition {
        toml::from_str(text).unwrap()
    }

    fn steps(before: &[(&str, &str)], after: &[(&str, &str)]) -> Vec<String> {
        let in_force = before.iter().map(|(file, text)| {
            let definition = definition(text);
            let name =
                definition.name.clone().unwrap_or_else(|| PluginName::new(&definition.type_name).unwrap());
            ((*file).to_owned(), InForce { name, definition })
        });
        let found = after.iter().map(|(file, text)| {
            let found = match toml::from_str(text) {
                Ok(definition) => Found::Good(definition),
                Err(_) => Found::Bad("bad".to_owned()),
            };
            ((*file).to_owned(), found)
        });
        let show = |step: Step| match step {
            Step::Load { file, definition } => format!("load {file} {}", definition.type_name),
            Step::Change { file, name, swaps, .. } => {
                format!("{} {file} {name}", if swaps { "swap" } else { "configure" })
            }
            Step::Unload { file, name } => format!("unload {file} {name}"),
            Step::Broken { file, .. } => format!("broken {file}"),
        };
        plan(&in_force.collect(), &found.collect()).into_iter().map(show).collect()
    }

    #[test]
    fn each_change_of_a_file_has_its_step() {
        let t = "type = 't'";
        for (before, after, expected) in [
            (vec![], vec![("a", t)], vec!["load a t"]),
            (vec![], vec![("a", "type = 't'\nenabled = false")], vec![]),
            (vec![("a", t)], vec![("a", t)], vec![]),
            (vec![("a", t)], vec![], vec!["unload a t"]),
            (vec![("a", t)], vec![("a", "type = 't'\nenabled = false")], vec!["unload a t"]),
            (vec![("a", t)], vec![("a", "type = 't'\n[config]\nx = 1")], vec!["configure a t"]),
            (vec![("a", t)], vec![("a", "type = 't'\nrestart = 'never'")], vec!["configure a t"]),
            (vec![("a", t)], vec![("a", "type = 't'\nversion = '^2'")], vec!["swap a t"]),
            (vec![("a", t)], vec![("a", "type = 't'\nname = 'n'")], vec!["unload a t", "load a t"]),
            (vec![("a", t)], vec![("a", "type = ")], vec!["broken a"]),
            (vec![("a", t)], vec![("a", "type = 't'\ntipe = 1")], vec!["broken a"]),
            (vec![("b", t)], vec![("a", t)], vec!["unload b t", "load a t"]),
        ] {
            assert_eq!(steps(&before, &after), expected, "{before:?} {after:?}");
        }
    }
}
