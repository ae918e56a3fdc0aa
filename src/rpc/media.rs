//! The codecs of bodies by their media types.

use super::wire::{Codec, Codecs};
use crate::http::fields::is_token;
use crate::http::lines;

/// Returns the codec of a media type.
pub(super) fn codec_of(media: &str, codecs: &Codecs) -> Option<Codec> {
    let media = media.split(';').next().unwrap_or_default().trim();
    let media = media.to_ascii_lowercase();
    match media.as_str() {
        "application/x-www-form-urlencoded" => return Some(Codec::FORM),
        "text/plain" => return Some(Codec::PLAIN),
        _ if media.ends_with("+json") => return Some(Codec::JSON),
        _ => {}
    }
    let name = media.strip_prefix("application/")?;
    let name = name.strip_prefix("x-").unwrap_or(name);
    let codec = codecs.by_name(name)?;
    (!matches!(codec, Codec::FORM | Codec::PLAIN)).then_some(codec)
}

/// Returns the media type of a codec.
pub(super) fn media_type(codec: Codec, codecs: &Codecs) -> String {
    match codec {
        Codec::FORM => "application/x-www-form-urlencoded".to_owned(),
        Codec::PLAIN => "text/plain; charset=utf-8".to_owned(),
        codec => {
            let name = codecs.format(codec).name().to_owned();
            match codecs.knows(codec) && is_token(name.as_bytes()) {
                true => format!("application/{name}"),
                false => "application/octet-stream".to_owned(),
            }
        }
    }
}

/// Returns the codec that a client prefers (RFC 9110, section 12.5.1). Returns `None` if it leaves the choice to the server.
pub(super) fn accepted<'a>(
    accept: impl Iterator<Item = &'a [u8]>,
    codecs: &Codecs,
) -> Option<Codec> {
    let mut best: Option<(u16, Option<Codec>)> = None;
    for range in accept.flat_map(lines::tokens) {
        let Ok(range) = std::str::from_utf8(range) else {
            continue;
        };
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let mut weights = parts.filter_map(|part| part.strip_prefix("q="));
        let weight: f32 = weights
            .next_back()
            .map_or(Some(1.0), |q| q.parse().ok())
            .unwrap_or(0.0);
        let weight = (weight.clamp(0.0, 1.0) * 1000.0) as u16;
        let codec = match media {
            "*/*" | "application/*" => None,
            media => match codec_of(media, codecs) {
                None => continue,
                codec => codec,
            },
        };
        if weight > best.map_or(0, |(best, _)| best) {
            best = Some((weight, codec));
        }
    }
    best.and_then(|(_, codec)| codec)
}
