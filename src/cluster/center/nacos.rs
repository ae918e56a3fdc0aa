use std::fmt;
use std::time::Duration;

use serde::Deserialize;

use super::{Configuration, MAX_FILES, Mode, Source};
use crate::cluster::backends::Nacos;
use crate::cluster::polled::watch_polled;
use crate::cluster::{Error, Watch};

/// Files in Nacos, in the format of due: the data id is the file, in a group. A watch reads them every 3 seconds, as due does.
#[derive(Clone)]
pub struct NacosSource {
    nacos: Nacos,
    group: String,
    mode: Mode,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    #[serde(default)]
    pages_available: u32,
    #[serde(default)]
    page_items: Vec<Item>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    data_id: String,
    #[serde(default)]
    content: Option<String>,
}

const PATH: &str = "/v1/cs/configs";
/// The most files of a page.
const PAGE: usize = 100;
const PAUSE: Duration = Duration::from_secs(3);

impl NacosSource {
    /// Returns the source in the group of due, `DEFAULT_GROUP`, for reading.
    pub fn new(nacos: &Nacos) -> Self {
        Self::with_group(nacos, "DEFAULT_GROUP")
    }

    /// Returns the source in a group, for reading.
    pub fn with_group(nacos: &Nacos, group: &str) -> Self {
        Self {
            nacos: nacos.clone(),
            group: group.to_owned(),
            mode: Mode::default(),
        }
    }

    /// Sets the use of the source.
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    fn read(&self) -> Result<Vec<Configuration>, Error> {
        let mut files = Vec::new();
        for number in 1..=MAX_FILES / PAGE {
            let number = number.to_string();
            let params = [
                ("search", "blur"),
                ("dataId", "*"),
                ("group", &self.group),
                ("tenant", self.nacos.namespace()),
                ("pageNo", &number),
                ("pageSize", &PAGE.to_string()),
            ];
            let answer = self.nacos.call("GET", PATH, &params)?;
            let page: Page = serde_json::from_slice(&answer.unwrap_or_else(|| b"{}".to_vec()))
                .map_err(|error| {
                    let problem = format!("{PATH} answers strangely: {error}");
                    self.nacos.error(problem)
                })?;
            let is_last = page.page_items.is_empty() || number == page.pages_available.to_string();
            let items = page.page_items.into_iter();
            files
                .extend(items.map(|item| {
                    Configuration::new(item.data_id, item.content.unwrap_or_default())
                }));
            if is_last {
                files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
                return Ok(files);
            }
        }
        let problem = format!("the group {} has more than {MAX_FILES} files", self.group);
        Err(self.nacos.error(problem))
    }
}

impl Source for NacosSource {
    fn name(&self) -> &str {
        "nacos"
    }

    fn is_readable(&self) -> bool {
        self.mode.is_readable()
    }

    fn load(&self) -> Result<Vec<Configuration>, Error> {
        self.mode.check_read(self)?;
        self.read()
    }

    fn store(&self, file: &str, content: &[u8]) -> Result<(), Error> {
        self.mode.check_write(self)?;
        let file = super::check(file, content)?;
        let content = std::str::from_utf8(content)
            .map_err(|_| Error::argument("content", "Nacos has only text"))?;
        let params = [
            ("dataId", file),
            ("group", &*self.group),
            ("tenant", self.nacos.namespace()),
            ("content", content),
        ];
        match self.nacos.call("POST", PATH, &params)? {
            Some(answer) if answer.trim_ascii() == b"true" => Ok(()),
            _ => Err(self.nacos.error(format!("it does not store {file}"))),
        }
    }

    fn watch(&self) -> Result<Watch<Vec<Configuration>>, Error> {
        self.mode.check_read(self)?;
        let own = self.clone();
        watch_polled("nacos", move |is_later: &mut bool, ending| {
            if *is_later {
                ending.wait(PAUSE);
            }
            *is_later = true;
            own.read()
        })
    }
}

impl fmt::Debug for NacosSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NacosSource")
            .field("nacos", &self.nacos)
            .field("group", &self.group)
            .field("mode", &self.mode)
            .finish()
    }
}
