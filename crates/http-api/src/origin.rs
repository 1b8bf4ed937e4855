//! Requests that a browser was tricked into: DNS rebinding and writes from other sites.

use std::net::IpAddr;

use http::uri::{Authority, Uri};
use http::{HeaderMap, HeaderName, Method, header};
use management::{Problem, ProblemKind};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Which names a host may be called by.
#[derive(Debug, Clone)]
pub(crate) struct HostPolicy {
    /// None: any name will do, since the host is meant to be reached over the network.
    names: Option<Vec<String>>,
}

impl HostPolicy {
    /// On loopback, where nobody is asked for credentials, only names that a stranger's DNS cannot point
    /// here: addresses, `localhost`, and what the configuration adds.
    pub(crate) fn new(loopback: bool, allowed: &[String]) -> Self {
        let names = loopback.then(|| {
            let added = allowed.iter().map(|name| name.trim_end_matches('.').to_ascii_lowercase());
            std::iter::once("localhost".to_owned()).chain(added).collect()
        });
        Self { names }
    }

    /// Whether the request was meant for this host.
    pub(crate) fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
        let Some(names) = &self.names else { return Ok(()) };
        let authority = match uri.authority() {
            Some(authority) => authority.as_str(),
            None => match headers.get(header::HOST).map(|value| value.to_str()) {
                Some(Ok(host)) => host,
                Some(Err(_)) => return Err(Problem::malformed("the `Host` header cannot be read")),
                // HTTP/1.0 and tests; a browser always sends one.
                None => return Ok(()),
            },
        };
        let name = host_name(authority);
        if is_address(name) || names.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            return Ok(());
        }
        Err(Problem::new(ProblemKind::Misdirected, "this host does not answer to the name in `Host`")
            .detail("a host on loopback answers to addresses, `localhost` and `allowed_hosts`"))
    }
}

/// Whether a write comes from a page of another site. Programs other than browsers send neither header.
pub(crate) fn check_same_origin(method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
    if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return Ok(());
    }
    check_own_page(uri, headers)
}

/// Whether a request that may write, whatever its method, comes from a page of another site.
pub(crate) fn check_own_page(uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
    let foreign = || Problem::forbidden("writes from pages of other sites are refused");
    if let Some(site) = headers.get(SEC_FETCH_SITE)
        && !matches!(site.as_bytes(), b"same-origin" | b"none")
    {
        return Err(foreign());
    }
    match headers.get(header::ORIGIN) {
        None => Ok(()),
        Some(origin) if is_own(origin.as_bytes(), uri.authority(), headers) => Ok(()),
        Some(_) => Err(foreign()),
    }
}

fn is_own(origin: &[u8], authority: Option<&Authority>, headers: &HeaderMap) -> bool {
    let own = match authority {
        Some(authority) => authority.as_str().as_bytes(),
        None => headers.get(header::HOST).map_or(&b""[..], |host| host.as_bytes()),
    };
    let bare = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
    !own.is_empty() && bare.is_some_and(|bare| bare.eq_ignore_ascii_case(own))
}

/// The name in `name:port`, without the brackets of an IPv6 address.
fn host_name(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split(']').next().unwrap_or_default();
    }
    authority.split(':').next().unwrap_or_default().trim_end_matches('.')
}

fn is_address(name: &str) -> bool {
    // Cheap for the names that there are: an address begins with a digit or has a colon.
    name.starts_with(|c: char| c.is_ascii_hexdigit() || c == ':') && name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use http::Request;
    use http::request::Parts;

    use super::*;

    fn parts(method: Method, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri("/x");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn check(policy: &HostPolicy, host: &str) -> Result<(), Problem> {
        let parts = parts(Method::GET, &[("host", host)]);
        policy.check(&parts.uri, &parts.headers)
    }

    fn check_same_origin(parts: &Parts) -> Result<(), Problem> {
        super::check_same_origin(&parts.method, &parts.uri, &parts.headers)
    }

    #[test]
    fn a_name_that_anybodys_dns_could_point_here_is_refused() {
        let policy = HostPolicy::new(true, &["Gantry.Example".to_owned()]);
        for host in
            ["localhost", "LOCALHOST:80", "localhost.", "127.0.0.1:8080", "[::1]:8080", "gantry.example:1"]
        {
            assert!(check(&policy, host).is_ok(), "{host}");
        }
        for host in
            ["evil.example", "localhost.evil.example:8080", "127.0.0.1.evil.example", "", "feed.example"]
        {
            let problem = check(&policy, host).unwrap_err();
            assert_eq!(problem.status(), 421, "{host}");
        }
        assert!(check(&HostPolicy::new(false, &[]), "any.example").is_ok());
    }

    #[test]
    fn writes_from_other_sites_are_refused() {
        let own = [("host", "localhost:8080"), ("origin", "http://localhost:8080")];
        assert!(check_same_origin(&parts(Method::POST, &own)).is_ok());
        assert!(check_same_origin(&parts(Method::POST, &[("host", "localhost:8080")])).is_ok());
        for origin in ["http://evil.example", "http://localhost:9090", "null", "", "file://"] {
            let headers = [("host", "localhost:8080"), ("origin", origin)];
            assert_eq!(
                check_same_origin(&parts(Method::POST, &headers)).unwrap_err().status(),
                403,
                "{origin}"
            );
            assert!(
                check_same_origin(&parts(Method::GET, &headers)).is_ok(),
                "reading is the browser's to guard"
            );
        }
        for (site, allowed) in
            [("cross-site", false), ("same-site", false), ("same-origin", true), ("none", true)]
        {
            let checked = check_same_origin(&parts(Method::DELETE, &[("sec-fetch-site", site)]));
            assert_eq!(checked.is_ok(), allowed, "{site}");
        }
    }
}
