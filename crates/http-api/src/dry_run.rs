//! `?dry_run=true`, which every write takes: it checks everything, answers as the write would, and changes
//! nothing.

use http::Uri;
use http::uri::PathAndQuery;
use management::Problem;

const DRY_RUN: &str = "dry_run";

/// Takes the parameter out of a write's query, so that its route, which refuses parameters that it does not
/// know, need not know it.
pub(crate) fn take(uri: &mut Uri) -> Result<bool, Problem> {
    let Some(query) = uri.query().filter(|query| query.contains(DRY_RUN)) else { return Ok(false) };
    let mut asked = None;
    let mut rest = Vec::new();
    for pair in query.split('&') {
        let value = match pair.split_once('=').unwrap_or((pair, "")) {
            (DRY_RUN, value) => value,
            _ => {
                rest.push(pair);
                continue;
            }
        };
        let value = value.parse().map_err(|_| Problem::invalid(DRY_RUN, "has to be `true` or `false`"))?;
        if asked.replace(value).is_some() {
            return Err(Problem::invalid(DRY_RUN, "is given twice"));
        }
    }
    let left = match rest.as_slice() {
        [] => uri.path().to_owned(),
        rest => format!("{}?{}", uri.path(), rest.join("&")),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(left).map_err(|_| Problem::internal())?);
    *uri = Uri::from_parts(parts).map_err(|_| Problem::internal())?;
    Ok(asked.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parameter_is_taken_out_and_the_others_stay() {
        for (given, dry_run, left) in [
            ("/a", false, "/a"),
            ("/a?b=1", false, "/a?b=1"),
            ("/a?dry_run=true", true, "/a"),
            ("/a?dry_run=false&b=%20", false, "/a?b=%20"),
            ("http://x:1/a?b=1&dry_run=true&c", true, "http://x:1/a?b=1&c"),
            ("/a?no_dry_run=true", false, "/a?no_dry_run=true"),
        ] {
            let mut uri: Uri = given.parse().unwrap();
            assert_eq!((take(&mut uri).unwrap(), uri.to_string().as_str()), (dry_run, left));
        }
        for wrong in ["/a?dry_run", "/a?dry_run=yes", "/a?dry_run=true&dry_run=true"] {
            let problem = take(&mut wrong.parse().unwrap()).unwrap_err();
            assert_eq!((problem.status(), problem.field.as_deref()), (422, Some("dry_run")), "{wrong}");
        }
    }
}
