use std::sync::Arc;

use http::{HeaderValue, Method, Request, StatusCode};

use super::*;

fn request(method: Method, body: &'static str) -> RouteRequest {
    let request = Request::builder().method(method).uri("/x?n=3").body(full_body(body)).unwrap();
    RouteRequest::new(request, PathParams::new(vec![("name".into(), "ada".into())]))
}

#[derive(serde::Deserialize, Debug)]
struct Body3 {
    n: u8,
}

#[tokio::test]
async fn reads_parameters_query_and_json() {
    assert_eq!(request(Method::GET, "").param("name"), Some("ada"));
    assert_eq!(request(Method::GET, "").query::<Body3>().unwrap().n, 3);
    assert_eq!(request(Method::POST, r#"{"n":7}"#).json::<Body3>().await.unwrap().n, 7);
    for (body, status) in [("{", 400), (r#"{"n":"x"}"#, 422), (r#"{"n":1} x"#, 400), ("", 400)] {
        let error = request(Method::POST, body).json::<Body3>().await.unwrap_err();
        assert_eq!(error.status().as_u16(), status, "{body}: {error}");
    }
    let error = request(Method::POST, r#"{"n":"x"}"#).json::<Body3>().await.unwrap_err();
    assert!(error.message().starts_with("n: "), "{error}");
    let error = request(Method::POST, "7").json::<Body3>().await.unwrap_err();
    assert!(error.message().starts_with("body: invalid type"), "{error}");
}

#[tokio::test]
async fn middleware_runs_from_the_outside_in_and_may_answer_itself() {
    let tag = |tag: &'static str| -> Arc<dyn Middleware> {
        Arc::new(MiddlewareFn(move |request: RouteRequest, next: Next| async move {
            if request.parts.headers.contains_key("stop") {
                return Ok(StatusCode::FORBIDDEN.into_response());
            }
            let mut response = next.run(request).await?;
            response.headers_mut().append("seen", HeaderValue::from_static(tag));
            Ok(response)
        }))
    };
    let chain: Arc<[_]> = Arc::from([tag("outer"), tag("inner")]);
    let route: Arc<dyn RouteHandler> = Arc::new(|_: RouteRequest| async { Ok("here") });
    let response = Next::new(chain.clone(), route.clone()).run(request(Method::GET, "")).await.unwrap();
    let seen: Vec<_> = response.headers().get_all("seen").iter().collect();
    assert_eq!(seen, ["inner", "outer"]);
    let mut stopped = request(Method::GET, "");
    stopped.parts.headers.insert("stop", HeaderValue::from_static("1"));
    let response = Next::new(chain, route).run(stopped).await.unwrap();
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
}

#[test]
fn paths_that_cannot_be_served_are_known() {
    for path in ["x", "/a/../b", "/a b", "/a?b", "/%41", "/ä"] {
        assert!(Endpoint::get(path).fault().is_some(), "{path}");
    }
    assert!(Endpoint::get("/greeter/{name}/{*rest}").fault().is_none());
}
