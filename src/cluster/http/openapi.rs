//! The description of the routes as OpenAPI, and a page that shows it.

use utoipa::openapi::path::{Operation, OperationBuilder, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{Schema, Type};
use utoipa::openapi::{
    ComponentsBuilder, Content, HttpMethod, Info, ObjectBuilder, OpenApiBuilder, PathItem, Paths,
    RefOr, Required, ResponseBuilder,
};

use super::request::HttpReply;
use super::routes::{HttpRoute, HttpRoutes};
use crate::cluster::Error;

/// Where the description is, and what it is called.
pub(super) struct OpenApi {
    path: String,
    title: String,
    version: String,
}

const PAGE: &str = include_str!("page.html");

impl OpenApi {
    pub(super) fn new(path: &str, title: &str, version: &str) -> Self {
        Self {
            path: path.to_owned(),
            title: title.to_owned(),
            version: version.to_owned(),
        }
    }

    /// Adds the routes of the document and of the page.
    pub(super) fn add(self, routes: &mut HttpRoutes) -> Result<(), Error> {
        let json = self.document(&routes.routes)?;
        let page = PAGE.replace("@document@", &format!("{}.json", self.path));
        // They are for everybody, so the middleware of the application is not theirs.
        let mut own = HttpRoutes::new();
        own.get(&self.path, move |_| Ok(HttpReply::html(page.clone())));
        own.get(&format!("{}.json", self.path), move |_| {
            Ok(HttpReply::of("application/json", json.clone()))
        });
        routes.routes.append(&mut own.routes);
        Ok(())
    }

    fn document(&self, routes: &[HttpRoute]) -> Result<String, Error> {
        let mut paths = Paths::new();
        let mut components = ComponentsBuilder::new();
        for route in routes {
            let Some(method) = method(&route.method) else {
                continue;
            };
            let item = PathItem::new(method, operation(route));
            let path = route.pattern.replace("{*", "{");
            match paths.paths.get_mut(&path) {
                Some(known) => known.merge_operations(item),
                None => drop(paths.paths.insert(path, item)),
            }
            components = components.schemas_from_iter(route.description.schemas.clone());
        }
        let document = OpenApiBuilder::new()
            .info(Info::new(self.title.clone(), self.version.clone()))
            .paths(paths)
            .components(Some(components.build()))
            .build();
        let json = document.to_json();
        json.map_err(|error| Error::argument("openapi", error.to_string()))
    }
}

fn operation(route: &HttpRoute) -> Operation {
    let text = || {
        let text = ObjectBuilder::new().schema_type(Type::String);
        Some(RefOr::T(Schema::from(text)))
    };
    let about = &route.description;
    let mut operation = OperationBuilder::new().summary(about.summary.clone());
    for name in names(&route.pattern) {
        let parameter = ParameterBuilder::new().name(name).schema(text());
        let parameter = parameter.parameter_in(ParameterIn::Path);
        operation = operation.parameter(parameter.required(Required::True).build());
    }
    for (name, line) in &about.queries {
        let parameter = ParameterBuilder::new().name(name).schema(text());
        let parameter = parameter.parameter_in(ParameterIn::Query);
        operation = operation.parameter(parameter.description(Some(line)).build());
    }
    if let Some(schema) = &about.takes {
        let body = RequestBodyBuilder::new().required(Some(Required::True));
        let body = body.content("application/json", Content::new(Some(schema.clone())));
        operation = operation.request_body(Some(body.build()));
    }
    let mut response = ResponseBuilder::new().description("done");
    if let Some(schema) = &about.returns {
        let content = Content::new(Some(schema.clone()));
        response = response.content("application/json", content);
    }
    operation.response("200", response.build()).build()
}

/// Returns the names in a pattern.
fn names(pattern: &str) -> impl Iterator<Item = &str> {
    let parts = pattern.split('{').skip(1);
    let names = parts.filter_map(|part| part.split_once('}'));
    names.map(|(name, _)| name.trim_start_matches('*'))
}

fn method(name: &str) -> Option<HttpMethod> {
    Some(match name {
        "GET" => HttpMethod::Get,
        "POST" => HttpMethod::Post,
        "PUT" => HttpMethod::Put,
        "DELETE" => HttpMethod::Delete,
        "PATCH" => HttpMethod::Patch,
        "HEAD" => HttpMethod::Head,
        "OPTIONS" => HttpMethod::Options,
        _ => return None,
    })
}
