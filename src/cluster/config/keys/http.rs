//! The keys of `http`.

use super::Effect::{self, Sets};
use super::{Keys, set};
use crate::cluster::config::HttpConfig;

pub(super) const HTTP: Keys<HttpConfig> = &[
    (
        "addr",
        Sets(|http, value| set(&mut http.addr, value.addr()?)),
    ),
    (
        "bodyLimit",
        Sets(|http, value| set(&mut http.max_body, Some(value.size()?))),
    ),
    (
        "concurrency",
        Sets(|http, value| set(&mut http.max_connections, Some(value.number()?))),
    ),
    (
        "certFile",
        Sets(|http, value| set(&mut http.certificate.cert_file, value.path()?)),
    ),
    (
        "keyFile",
        Sets(|http, value| set(&mut http.certificate.key_file, value.path()?)),
    ),
    (
        "cors.enable",
        Sets(|http, value| set(&mut http.cors, Some(value.flag()?))),
    ),
    (
        "cors.allowOrigins",
        Sets(|http, value| set(&mut http.cors_origins, Some(value.list()?))),
    ),
    (
        "swagger.enable",
        Sets(|http, value| set(&mut http.swagger, Some(value.flag()?))),
    ),
    (
        "swagger.title",
        Sets(|http, value| set(&mut http.swagger_title, value.optional()?)),
    ),
    (
        "swagger.basePath",
        Sets(|http, value| set(&mut http.swagger_path, value.optional()?)),
    ),
    ("name", Effect::None("an HTTP server is not registered")),
    (
        "console",
        Effect::None("the container tells where it listens"),
    ),
    (
        "strictRouting",
        Effect::None("`/foo` and `/foo/` are two paths"),
    ),
    ("caseSensitive", Effect::None("paths differ by their case")),
    (
        "cors.allowMethods",
        Effect::None("the answer names all methods"),
    ),
    (
        "cors.allowHeaders",
        Effect::None("those that are asked for are allowed"),
    ),
    (
        "cors.allowCredentials",
        Effect::None("pages of other origins get no cookies"),
    ),
    (
        "cors.exposeHeaders",
        Effect::None("only those that browsers always show are exposed"),
    ),
    (
        "cors.maxAge",
        Effect::None("a browser may remember an answer for 10 minutes"),
    ),
    (
        "cors.allowPrivateNetwork",
        Effect::None("browsers no longer ask for it"),
    ),
    (
        "swagger.filePath",
        Effect::None("the document is made from the routes"),
    ),
    (
        "swagger.swaggerBundleUrl",
        Effect::None("the page needs nothing from the network"),
    ),
    (
        "swagger.swaggerPresetUrl",
        Effect::None("the page needs nothing from the network"),
    ),
    (
        "swagger.swaggerStylesUrl",
        Effect::None("the page needs nothing from the network"),
    ),
];
