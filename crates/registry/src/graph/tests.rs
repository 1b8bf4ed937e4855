use proptest::prelude::*;

use super::*;

fn manifest(name: &str, needs: &[&str]) -> Manifest {
    let mut manifest = Manifest::new(name, "1.2.0").unwrap();
    for need in needs {
        let (name, version) = need.split_once(' ').unwrap_or((need, "*"));
        manifest = manifest.depends_on(name, version).unwrap();
    }
    manifest
}

fn graph(plugins: &[(&str, &[&str])]) -> DependencyGraph {
    let manifests: Vec<_> = plugins.iter().map(|(name, needs)| manifest(name, needs)).collect();
    DependencyGraph::new(&manifests)
}

fn texts(names: &[PluginName]) -> Vec<&str> {
    names.iter().map(PluginName::as_str).collect()
}

#[test]
fn a_diamond_has_three_levels() {
    let graph = graph(&[("a", &[]), ("b", &["a"]), ("c", &["a"]), ("d", &["b", "c"]), ("e", &[])]);
    let levels: Vec<_> = graph.levels();
    let levels: Vec<_> = levels.iter().map(|level| texts(level)).collect();
    assert_eq!(levels, [vec!["a", "e"], vec!["b", "c"], vec!["d"]]);
    assert!(graph.problems().is_empty());
    assert_eq!(texts(&graph.all_dependents("a")), ["d", "b", "c"]);
    assert_eq!(texts(&graph.all_dependencies("d")), ["a", "b", "c"]);
    assert_eq!(texts(graph.dependents("a")), ["b", "c"]);
    assert!(graph.all_dependents("none").is_empty());
}

#[test]
fn each_problem_is_named_in_full() {
    let graph = graph(&[("a", &["b ^1.3", "gone ^2"]), ("b", &["c"]), ("c", &["d"]), ("d", &["b"])]);
    let problems: Vec<_> = graph.problems().iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "plugin `a` needs `b` ^1.3, and 1.2.0 is there",
            "plugin `a` needs `gone` (^2), which is not there",
            "dependency cycle: b -> c -> d -> b",
        ]
    );
    assert!(graph.levels().is_empty(), "a stands behind the circle");
    assert!(graph.problems()[0].concerns("a") && !graph.problems()[0].concerns("b"));
    assert!(graph.problems()[2].concerns("d") && !graph.problems()[2].concerns("a"));
}

#[test]
fn an_optional_dependency_counts_where_it_is_there() {
    let optional = |version: &str| {
        manifest("a", &[]).dependency(Dependency {
            name: PluginName::new("b").unwrap(),
            version: VersionReq::parse(version).unwrap(),
            needs: plugin_core::Needs::Ready,
            optional: true,
        })
    };
    assert!(DependencyGraph::new(&[optional("*")]).problems().is_empty());
    let both = DependencyGraph::new(&[optional("*"), manifest("b", &[])]);
    assert_eq!(both.levels().len(), 2);
    let unfit = DependencyGraph::new(&[optional("^2"), manifest("b", &[])]);
    assert_eq!(unfit.problems().len(), 1);
}

#[test]
fn a_chain_of_thousands_does_not_overflow() {
    let manifests: Vec<_> = (0..5_000)
        .map(|i| {
            let needs = if i == 0 { vec![] } else { vec![format!("p{}", i - 1)] };
            manifest(&format!("p{i}"), &needs.iter().map(String::as_str).collect::<Vec<_>>())
        })
        .collect();
    let graph = DependencyGraph::new(&manifests);
    assert_eq!(graph.levels().len(), 5_000);
    assert_eq!(graph.all_dependents("p0").len(), 4_999);
    assert_eq!(graph.all_dependents("p0")[0], "p4999");
}

/// Plugins `p0…`, and for each pair whether the first needs the second.
fn any_graph() -> impl Strategy<Value = (usize, Vec<bool>)> {
    (1_usize..8)
        .prop_flat_map(|n| (Just(n), proptest::collection::vec(proptest::bool::weighted(0.25), n * n)))
}

/// What can be reached, by Warshall's closure: slow, short, and another way than the graph's own.
fn closure(n: usize, needs: &[bool]) -> Vec<bool> {
    let mut reach = needs.to_vec();
    for k in 0..n {
        for i in 0..n {
            for j in 0..n {
                reach[i * n + j] |= reach[i * n + k] && reach[k * n + j];
            }
        }
    }
    reach
}

proptest! {
    #[test]
    fn agrees_with_the_closure((n, mut needs) in any_graph()) {
        for i in 0..n {
            needs[i * n + i] = false;
        }
        let names: Vec<_> = (0..n).map(|i| format!("p{i}")).collect();
        let manifests: Vec<_> = (0..n)
            .map(|i| {
                let needs: Vec<_> = (0..n).filter(|j| needs[i * n + j]).map(|j| names[j].as_str()).collect();
                manifest(&names[i], &needs)
            })
            .collect();
        let graph = DependencyGraph::new(&manifests);
        let reach = closure(n, &needs);
        let index = |name: &PluginName| name.as_str()[1..].parse::<usize>().unwrap();

        // In a circle exactly where the closure says so, and each circle is one.
        let in_circle: BTreeSet<_> = (0..n).filter(|i| reach[i * n + i]).collect();
        let mut named = BTreeSet::new();
        for problem in graph.problems() {
            let DependencyProblem::Cycle { path } = problem else { panic!("{problem}") };
            prop_assert!(path.len() >= 3 && path.first() == path.last());
            for pair in path.windows(2) {
                prop_assert!(needs[index(&pair[0]) * n + index(&pair[1])]);
            }
            named.extend(path.iter().map(index));
        }
        prop_assert_eq!(&named, &in_circle);

        // On a level exactly those from which no circle is reached, each one above the highest it needs.
        let levels = graph.levels();
        let level_of = |i: usize| levels.iter().position(|level| level.iter().any(|name| index(name) == i));
        for i in 0..n {
            let behind = in_circle.contains(&i) || in_circle.iter().any(|c| reach[i * n + c]);
            prop_assert_eq!(level_of(i).is_none(), behind);
            if !behind {
                let highest = (0..n).filter(|j| needs[i * n + j]).map(|j| level_of(j).unwrap() + 1).max();
                prop_assert_eq!(level_of(i), Some(highest.unwrap_or(0)));
            }
        }

        for i in 0..n {
            let dependents = graph.all_dependents(&names[i]);
            let expected: BTreeSet<_> = (0..n).filter(|j| *j != i && reach[j * n + i]).collect();
            prop_assert_eq!(dependents.iter().map(index).collect::<BTreeSet<_>>(), expected);
            if in_circle.is_empty() {
                // Stopped in this order, nobody that still runs needs one that is stopped.
                for (at, name) in dependents.iter().enumerate() {
                    for later in &dependents[at + 1..] {
                        prop_assert!(!needs[index(later) * n + index(name)]);
                    }
                }
            }
            let dependencies: BTreeSet<_> = graph.all_dependencies(&names[i]).iter().map(index).collect();
            prop_assert_eq!(dependencies, (0..n).filter(|j| *j != i && reach[i * n + j]).collect::<BTreeSet<_>>());
        }
    }
}
