use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use toml::de::DeValue;

use crate::addr::Endpoint;

/// A value of a key: from a file, or as text from the environment or a flag.
#[derive(Clone, Copy)]
pub(super) enum Value<'v> {
    Toml(&'v DeValue<'v>),
    Text(&'v str),
}

/// The problem of a value, with its remedy.
pub(super) type Problem = String;

impl<'v> Value<'v> {
    pub(super) fn text(self) -> Result<&'v str, Problem> {
        match self {
            Self::Text(text) => Ok(text),
            Self::Toml(value) => value
                .as_str()
                .ok_or_else(|| "use a text in quotes".to_owned()),
        }
    }

    /// Returns a text, or `None` if it is empty, which is the same as a missing key for due.
    pub(super) fn optional(self) -> Result<Option<String>, Problem> {
        let text = self.text()?;
        Ok((!text.is_empty()).then(|| text.to_owned()))
    }

    /// Returns an address to listen on, such as `:3553`, or `None` if it is empty.
    pub(super) fn addr(self) -> Result<Option<String>, Problem> {
        let addr = self.optional()?;
        if let Some(addr) = &addr {
            let endpoint = format!("tcp://{addr}").parse::<Endpoint>();
            endpoint.map_err(|error| error.to_string())?;
        }
        Ok(addr)
    }

    /// Returns a path, or `None` if it is empty.
    pub(super) fn path(self) -> Result<Option<PathBuf>, Problem> {
        Ok(self.optional()?.map(Into::into))
    }

    /// Returns the value of a text that names one, or `None` if the text is empty.
    pub(super) fn named<T: FromStr<Err: ToString>>(self) -> Result<Option<T>, Problem> {
        match self.text()? {
            "" => Ok(None),
            text => text
                .parse()
                .map(Some)
                .map_err(|error: T::Err| error.to_string()),
        }
    }

    pub(super) fn number<T: TryFrom<u64>>(self) -> Result<T, Problem> {
        let digits = match self {
            Self::Text(text) => text.trim().parse().ok(),
            Self::Toml(DeValue::Integer(integer)) => {
                u64::from_str_radix(integer.as_str(), integer.radix()).ok()
            }
            Self::Toml(_) => None,
        };
        let fitting = digits.and_then(|number: u64| T::try_from(number).ok());
        fitting.ok_or_else(|| {
            format!(
                "use a whole number from 0 on that fits into {}",
                width::<T>()
            )
        })
    }

    pub(super) fn flag(self) -> Result<bool, Problem> {
        let flag = match self {
            Self::Text(text) => text.parse().ok(),
            Self::Toml(value) => value.as_bool(),
        };
        flag.ok_or_else(|| "use true or false".to_owned())
    }

    /// Returns a time: a text such as `10s`, or 0.
    pub(super) fn time(self) -> Result<Duration, Problem> {
        if self.number() == Ok(0_u64) {
            return Ok(Duration::ZERO);
        }
        let remedy = "write a time with its unit, such as \"10s\", \"500ms\" or \"1h30m\"";
        let text = self.text().map_err(|_| remedy.to_owned())?;
        humantime::parse_duration(text)
            .map_err(|error| format!("{text:?} is no time ({error}); {remedy}"))
    }

    /// Returns a number of bytes: a number, or a text such as `4K`.
    pub(super) fn size(self) -> Result<usize, Problem> {
        if let Ok(bytes) = self.number() {
            return Ok(bytes);
        }
        let text = self.text().ok();
        let bytes = text
            .and_then(size)
            .and_then(|bytes| usize::try_from(bytes).ok());
        bytes
            .ok_or_else(|| "write a number of bytes, or a size such as \"4K\" or \"1M\"".to_owned())
    }

    pub(super) fn list(self) -> Result<Vec<String>, Problem> {
        match self {
            Self::Text(text) => Ok(text.split(',').map(|item| item.trim().to_owned()).collect()),
            Self::Toml(DeValue::Array(items)) => {
                let texts = items.iter().map(|item| Value::Toml(item.get_ref()).text());
                texts.map(|text| text.map(str::to_owned)).collect()
            }
            Self::Toml(_) => Err("use an array of texts, such as [\"*\"]".to_owned()),
        }
    }

    /// Returns as many numbers as there shall be.
    pub(super) fn numbers<const N: usize>(self) -> Result<[u16; N], Problem> {
        let numbers: Result<Vec<u16>, Problem> = match self {
            Self::Text(text) => text
                .split(',')
                .map(|item| Value::Text(item).number())
                .collect(),
            Self::Toml(DeValue::Array(items)) => items
                .iter()
                .map(|item| Value::Toml(item.get_ref()).number())
                .collect(),
            Self::Toml(_) => Err(format!("use an array of {N} numbers")),
        };
        <[u16; N]>::try_from(numbers?)
            .map_err(|numbers| format!("{} numbers are not {N}", numbers.len()))
    }
}

fn width<T>() -> String {
    format!("{} bits", 8 * size_of::<T>())
}

/// Reads a size as due does: the units are powers of 1,024, in any case, with or without a B.
fn size(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().to_ascii_uppercase();
    let shift = match unit.strip_suffix('B').unwrap_or(&unit) {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_the_units_of_due() {
        for (text, wanted) in [
            ("5000", Ok(5000)),
            ("4K", Ok(4096)),
            ("4kb", Ok(4096)),
            ("3 M", Ok(3 << 20)),
            ("7B", Ok(7)),
            ("2G", Ok(2 << 30)),
            ("K", Err(())),
            ("4Q", Err(())),
            ("-1", Err(())),
            ("99999999999T", Err(())),
        ] {
            assert_eq!(Value::Text(text).size().map_err(drop), wanted, "{text}");
        }
    }

    #[test]
    fn times_have_units_but_for_zero() {
        assert_eq!(Value::Text("10s").time(), Ok(Duration::from_secs(10)));
        assert_eq!(Value::Text("1h30m").time(), Ok(Duration::from_secs(5400)));
        assert_eq!(Value::Text("0").time(), Ok(Duration::ZERO));
        assert!(
            Value::Text("10")
                .time()
                .is_err_and(|problem| problem.contains("\"10s\""))
        );
    }
}
