//! The status page: one table a person understands, no script, nothing from elsewhere.

use axum::Router;
use axum::extract::{Form, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, COOKIE, LOCATION, SET_COOKIE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use warmspare_domain::units::Timestamp;

use super::view::AssociationView;
use super::{App, Failure, seal};
use crate::config::Scope;

/// The name of the cookie that holds the token. It is sent to this page only, and no script can read it.
const COOKIE_NAME: &str = "warmspare_token";

const STYLE: &str = include_str!("page.css");

/// `GET /` and the login form behind it.
pub fn router(app: App) -> Router {
    Router::new()
        .route("/", get(status))
        .route("/login", post(login))
        .with_state(app)
}

async fn status(State(app): State<App>, headers: HeaderMap) -> Result<Response, Failure> {
    let mut asked = HeaderMap::new();
    if let Some(token) = cookie(&headers)
        && let Ok(value) = HeaderValue::from_str(&format!("Bearer {token}"))
    {
        asked.insert("authorization", value);
    }
    if seal::check_token(&asked, &app.callers.api_tokens, Scope::Read).is_err() {
        return Ok(page(LOGIN_FORM, ""));
    }
    let world = app.reconciler.world();
    let now = world.clock.now();
    let live = app.reconciler.live().await?;
    let views: Vec<_> = live
        .iter()
        .map(|a| AssociationView::new(a, world.pulses.get(a.id).as_ref(), now))
        .collect();
    Ok(page(&table(&views, now), "<meta http-equiv=refresh content=5>"))
}

#[derive(Deserialize)]
struct Login {
    token: String,
}

async fn login(State(app): State<App>, Form(login): Form<Login>) -> Response {
    let token = login.token.trim();
    let mut asked = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(&format!("Bearer {token}")) {
        asked.insert("authorization", value);
    }
    if seal::check_token(&asked, &app.callers.api_tokens, Scope::Read).is_err() {
        let text = format!("<p class=bad>This token is not known here.</p>{LOGIN_FORM}");
        return (StatusCode::UNAUTHORIZED, page(&text, "")).into_response();
    }
    let cookie = format!("{COOKIE_NAME}={token}; HttpOnly; SameSite=Strict; Path=/; Max-Age=86400");
    (
        StatusCode::SEE_OTHER,
        [(LOCATION, "/".to_owned()), (SET_COOKIE, cookie)],
    )
        .into_response()
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get(COOKIE)?.to_str().ok()?;
    cookies
        .split(';')
        .find_map(|pair| pair.trim().strip_prefix(COOKIE_NAME)?.strip_prefix('='))
}

const LOGIN_FORM: &str = "<form method=post action=/login><label>API token <input type=password name=token autofocus autocomplete=current-password></label> \
<button>Show</button></form><p class=quiet>`warmspare token` makes one; only its hash is kept here.</p>";

fn table(views: &[AssociationView], now: Timestamp) -> String {
    if views.is_empty() {
        return "<p>No GPU is protected yet. Protect one with <code>warmspare protect GPU</code>, or send the hook gpu-created.</p>".to_owned();
    }
    let mut html = String::from(
        "<table><thead><tr><th>GPU<th>Phase<th>Would be lost now<th>Recovery points<th>Standby<th>What is going on</tr></thead><tbody>",
    );
    for view in views {
        let lag = view.lag_ms.map_or_else(
            || "everything".to_owned(),
            |lag| format!("the last {:.1} s", lag_seconds(lag)),
        );
        let points = match &view.latest_recovery_point {
            Some(point) => format!(
                "{}; newest: {} files, {}",
                view.recovery_points, point.files, point.bytes
            ),
            None => "none yet".to_owned(),
        };
        let reasons = if view.health_reasons.is_empty() {
            "all is well".to_owned()
        } else {
            view.health_reasons
                .iter()
                .map(|reason| escape(reason))
                .collect::<Vec<_>>()
                .join("<br>")
        };
        html.push_str(&format!(
            "<tr class={}><td>{}<span class=quiet> epoch {}</span><td>{}<td>{}<td>{}<td>{}<span class=quiet> {}</span><td>{}</tr>",
            view.health,
            view.gpu,
            view.epoch,
            view.phase,
            escape(&lag),
            escape(&points),
            view.standby,
            view.zone,
            reasons
        ));
    }
    html.push_str(&format!(
        "</tbody></table><p class=quiet>As of {now}. Reloads every 5 seconds.</p>"
    ));
    html
}

#[allow(clippy::cast_precision_loss, reason = "shown with one decimal")]
fn lag_seconds(lag_ms: u64) -> f64 {
    lag_ms as f64 / 1000.0
}

fn page(body: &str, refresh: &str) -> Response {
    let title = "warmspare";
    let html = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>{refresh}\
<title>{title}</title><style>{STYLE}</style><h1>{title}</h1>{body}</html>"
    );
    let headers = [
        (CACHE_CONTROL, "no-store"),
        (
            CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'",
        ),
    ];
    (headers, Html(html)).into_response()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
