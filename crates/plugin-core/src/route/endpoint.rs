//! What is served, and who may call it.

use std::borrow::Cow;
use std::fmt;

use http::Method;

/// Who may call an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Anybody, without credentials.
    Public,
    /// Whoever may look: role `viewer` and above.
    Viewer,
    /// Whoever may operate: role `operator` and above.
    Operator,
    /// Role `admin`.
    Admin,
}

/// A route that a plugin serves: method, path with `{name}` and `{*rest}` parameters, and who may call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    method: Method,
    path: Cow<'static, str>,
    access: Access,
    summary: Cow<'static, str>,
}

impl Endpoint {
    /// An endpoint for any method. `GET` and `HEAD` ask for role `viewer`, others for `operator`, unless
    /// [`Endpoint::access`] says otherwise.
    pub fn new(method: Method, path: impl Into<Cow<'static, str>>) -> Self {
        let access =
            if matches!(method, Method::GET | Method::HEAD) { Access::Viewer } else { Access::Operator };
        Self { method, path: path.into(), access, summary: Cow::Borrowed("") }
    }

    /// `GET path`; answers `HEAD` as well.
    pub fn get(path: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Method::GET, path)
    }

    /// `POST path`.
    pub fn post(path: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Method::POST, path)
    }

    /// `PUT path`.
    pub fn put(path: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Method::PUT, path)
    }

    /// `DELETE path`.
    pub fn delete(path: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Method::DELETE, path)
    }

    /// Says who may call it.
    #[must_use]
    pub fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// Lets anybody call it, without credentials.
    #[must_use]
    pub fn public(self) -> Self {
        self.access(Access::Public)
    }

    /// Says in a few words what it does.
    #[must_use]
    pub fn summary(mut self, text: impl Into<Cow<'static, str>>) -> Self {
        self.summary = text.into();
        self
    }

    /// The method.
    #[must_use]
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The path, with its parameters in braces.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Who may call it.
    #[must_use]
    pub fn required_access(&self) -> Access {
        self.access
    }

    /// What it does, in a few words.
    #[must_use]
    pub fn summary_text(&self) -> &str {
        &self.summary
    }

    /// Why the path cannot be served, if it cannot.
    pub(crate) fn fault(&self) -> Option<&'static str> {
        let path = self.path.as_ref();
        if !path.starts_with('/') {
            return Some("does not begin with `/`");
        }
        if path.len() > 1024 {
            return Some("is longer than 1024 bytes");
        }
        if path.split('/').skip(1).any(|segment| segment == "." || segment == "..") {
            return Some("has a `.` or `..` segment");
        }
        if !path.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'%')) {
            return Some("has a character that a path cannot have");
        }
        None
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}
