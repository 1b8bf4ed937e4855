use plugin_core::{Reply, RouteRequest};
use proptest::prelude::*;

use super::*;

fn route(path: &str) -> Arc<Route> {
    Arc::new(Route {
        endpoint: Endpoint::get(path.to_owned()),
        handler: Arc::new(|_: RouteRequest| async { Ok(Reply::text("")) }),
    })
}

/// The path of the route that answers, with its parameters, in a table whose plugin is away: the lookup
/// itself is what is looked at.
fn matched(compiled: &Compiled, path: &str) -> Option<(String, Vec<(String, String)>)> {
    let found = compiled.router.at(path).ok()?;
    let answer = &compiled.paths[*found.value][0];
    let params = answer.params.iter().cloned().zip(found.params.iter().map(|(_, v)| v.to_owned())).collect();
    Some((answer.route.endpoint.path().to_owned(), params))
}

fn table(paths: &[String]) -> Compiled {
    let plugin = PluginName::new("p").unwrap();
    let mut router = matchit::Router::new();
    // As the directory does, the first of two that cannot be told apart is kept.
    let routes: Vec<_> = paths
        .iter()
        .filter(|path| router.insert(Shape::of(&Endpoint::get((*path).clone())).unwrap().shape, ()).is_ok())
        .map(|path| route(path))
        .collect();
    compile(&[PluginRoutes { plugin, live: None, routes: routes.into(), wraps: None }])
}

/// Literal before parameter before rest, segment by segment, going back where the rest does not fit.
fn oracle(patterns: &[String], path: &str) -> Option<String> {
    fn rank(segment: &str) -> u8 {
        match segment {
            s if s.starts_with("{*") => 2,
            s if s.starts_with('{') => 1,
            _ => 0,
        }
    }
    fn fits(pattern: &str, path: &str) -> bool {
        let (mut pattern, mut path) = (pattern.split('/'), path.split('/'));
        loop {
            match (pattern.next(), path.next()) {
                (None, None) => return true,
                (Some(p), Some(first)) if p.starts_with("{*") => {
                    return !first.is_empty() || path.next().is_some();
                }
                (Some(p), Some(s)) if p.starts_with('{') && !s.is_empty() => {}
                (Some(p), Some(s)) if p == s => {}
                _ => return false,
            }
        }
    }
    let fitting = patterns.iter().filter(|pattern| fits(pattern, path));
    fitting.min_by_key(|pattern| pattern.split('/').map(rank).collect::<Vec<_>>()).cloned()
}

fn pattern() -> impl Strategy<Value = String> {
    let segment = proptest::sample::select(vec!["a", "b", "ab", "{x}", "{x}", "{*x}"]);
    proptest::collection::vec(segment, 1..5).prop_map(|segments| {
        let mut pattern = String::new();
        for (i, segment) in segments.into_iter().enumerate() {
            // Names differ within a pattern; a rest ends it.
            pattern.push('/');
            pattern.push_str(&segment.replace('x', &format!("x{i}")));
            if segment.starts_with("{*") {
                break;
            }
        }
        pattern
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn matches_as_the_oracle_does(
        patterns in proptest::collection::vec(pattern(), 1..7),
        path in proptest::collection::vec(proptest::sample::select(vec!["a", "b", "ab", "c"]), 1..5),
    ) {
        let compiled = table(&patterns);
        let kept: Vec<_> = compiled.paths.iter().map(|p| p[0].route.endpoint.path().to_owned()).collect();
        let path = format!("/{}", path.join("/"));
        let found = matched(&compiled, &path);
        prop_assert_eq!(found.as_ref().map(|(p, _)| p.clone()), oracle(&kept, &path), "{:?} {}", kept, path);
        if let Some((pattern, params)) = found {
            // The parameters put back into the pattern give the path.
            let mut rebuilt = pattern;
            for (name, value) in params {
                rebuilt = rebuilt.replace(&format!("{{{name}}}"), &value).replace(&format!("{{*{name}}}"), &value);
            }
            prop_assert_eq!(rebuilt, path);
        }
    }
}

#[test]
fn shapes_forget_the_names_of_parameters() {
    let shape = |path: &'static str| Shape::of(&Endpoint::get(path)).map(|s| (s.shape, s.params));
    assert_eq!(shape("/a/{x}/{*y}").unwrap(), ("/a/{p0}/{*p1}".into(), vec!["x".into(), "y".into()]));
    assert_eq!(shape("/a/{{x}}").unwrap().0, "/a/{{x}}");
    for path in ["/{", "/}", "/{}", "/{*}", "/{a}/{a}", "/{a{b}"] {
        assert!(shape(path).is_err(), "{path}");
    }
}
