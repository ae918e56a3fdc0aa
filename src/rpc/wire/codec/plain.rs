//! The plain codec: one value as text, as Go's `strconv` prints and parses it.

use std::fmt::Display;

use serde::de::value::Error;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, SeqAccess, Visitor,
};
use serde::forward_to_deserialize_any;
use serde::ser::{Impossible, Serialize, SerializeSeq, SerializeTuple, Serializer};

use super::BodyError;

pub(super) fn encode<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), BodyError> {
    let bytewise = false;
    value
        .serialize(Plain { out, bytewise })
        .map_err(|error| BodyError::encode("plain", error))
}

pub(super) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, BodyError> {
    T::deserialize(Text(body)).map_err(|error| BodyError::decode("plain", error))
}

const NO_FORM: &str = "only strings, bytes, numbers and booleans have a plain form";

struct Plain<'a> {
    out: &'a mut Vec<u8>,
    /// True for an element of a list. Only bytes may be elements, since serde treats a `Vec<u8>` as a list of them.
    bytewise: bool,
}

impl Plain<'_> {
    fn put(self, text: impl Display) -> Result<(), Error> {
        if self.bytewise {
            return no_form();
        }
        self.out.extend_from_slice(text.to_string().as_bytes());
        Ok(())
    }

    fn put_float(self, float: f64, text: impl Display) -> Result<(), Error> {
        match float {
            f64::INFINITY => self.put("+Inf"),
            f64::NEG_INFINITY => self.put("-Inf"),
            // The shortest digits that parse to the same number, without an exponent: Go's format `f`.
            _ => self.put(text),
        }
    }
}

fn no_form<T>() -> Result<T, Error> {
    error(NO_FORM)
}

fn error<T>(what: impl Display) -> Result<T, Error> {
    Err(serde::de::Error::custom(what))
}

macro_rules! as_text {
    ($($method:ident: $type:ty),*) => {
        $(fn $method(self, value: $type) -> Result<(), Error> {
            self.put(value)
        })*
    };
}

impl<'a> Serializer for Plain<'a> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Impossible<(), Error>;
    type SerializeTupleVariant = Impossible<(), Error>;
    type SerializeMap = Impossible<(), Error>;
    type SerializeStruct = Impossible<(), Error>;
    type SerializeStructVariant = Impossible<(), Error>;

    as_text! {
        serialize_bool: bool,
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64, serialize_i128: i128,
        serialize_u16: u16, serialize_u32: u32, serialize_u64: u64, serialize_u128: u128,
        serialize_char: char, serialize_str: &str
    }

    fn serialize_u8(self, value: u8) -> Result<(), Error> {
        if self.bytewise {
            self.out.push(value);
            return Ok(());
        }
        self.put(value)
    }

    fn serialize_f32(self, value: f32) -> Result<(), Error> {
        self.put_float(value.into(), value)
    }

    fn serialize_f64(self, value: f64) -> Result<(), Error> {
        self.put_float(value, value)
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), Error> {
        if self.bytewise {
            return no_form();
        }
        self.out.extend_from_slice(value);
        Ok(())
    }

    fn serialize_none(self) -> Result<(), Error> {
        self.put("")
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Error> {
        self.put("")
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Error> {
        self.put("")
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<(), Error> {
        self.put(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<(), Error> {
        no_form()
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self, Error> {
        if self.bytewise {
            return no_form();
        }
        let bytewise = true;
        Ok(Self { bytewise, ..self })
    }

    fn serialize_tuple(self, _: usize) -> Result<Self, Error> {
        self.serialize_seq(None)
    }

    fn serialize_tuple_struct(
        self,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleStruct, Error> {
        no_form()
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, Error> {
        no_form()
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, Error> {
        no_form()
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeStruct, Error> {
        no_form()
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, Error> {
        no_form()
    }
}

impl SerializeSeq for Plain<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, element: &T) -> Result<(), Error> {
        let bytewise = true;
        element.serialize(Plain {
            out: self.out,
            bytewise,
        })
    }

    fn end(self) -> Result<(), Error> {
        Ok(())
    }
}

impl SerializeTuple for Plain<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, element: &T) -> Result<(), Error> {
        SerializeSeq::serialize_element(self, element)
    }

    fn end(self) -> Result<(), Error> {
        Ok(())
    }
}

/// A body that contains one value.
struct Text<'de>(&'de [u8]);

impl<'de> Text<'de> {
    fn str(&self) -> Result<&'de str, Error> {
        match std::str::from_utf8(self.0) {
            Ok(text) => Ok(text),
            Err(_) => error("the text is not UTF-8"),
        }
    }

    fn parse<T: std::str::FromStr>(&self, what: &str) -> Result<T, Error> {
        match self.str()?.parse() {
            Ok(value) => Ok(value),
            // The text itself is omitted: the peer knows what it sent, and a log need not contain it.
            Err(_) => error(format_args!("the text is not {what}")),
        }
    }

    fn parse_bool(&self) -> Result<bool, Error> {
        match self.0 {
            b"1" | b"t" | b"T" | b"true" | b"TRUE" | b"True" => Ok(true),
            b"0" | b"f" | b"F" | b"false" | b"FALSE" | b"False" => Ok(false),
            _ => error("the text is not a boolean"),
        }
    }
}

macro_rules! parsed {
    ($($method:ident: $visit:ident, $what:literal;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.$visit(self.parse($what)?)
        })*
    };
}

impl<'de> Deserializer<'de> for Text<'de> {
    type Error = Error;

    parsed! {
        deserialize_i8: visit_i8, "an integer of this size";
        deserialize_i16: visit_i16, "an integer of this size";
        deserialize_i32: visit_i32, "an integer of this size";
        deserialize_i64: visit_i64, "an integer of this size";
        deserialize_i128: visit_i128, "an integer of this size";
        deserialize_u8: visit_u8, "an unsigned integer of this size";
        deserialize_u16: visit_u16, "an unsigned integer of this size";
        deserialize_u32: visit_u32, "an unsigned integer of this size";
        deserialize_u64: visit_u64, "an unsigned integer of this size";
        deserialize_u128: visit_u128, "an unsigned integer of this size";
        deserialize_f32: visit_f32, "a number";
        deserialize_f64: visit_f64, "a number";
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_bool(self.parse_bool()?)
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_borrowed_str(self.str()?)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_borrowed_bytes(self.0)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_borrowed_bytes(self.0)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.0.is_empty() {
            return visitor.visit_none();
        }
        visitor.visit_some(self)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.0.is_empty() {
            return visitor.visit_unit();
        }
        error("the body has text, but no value is expected")
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(Bytewise(self.0))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(Bytewise(self.0))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_enum(self.str()?.into_deserializer())
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        _: V,
    ) -> Result<V::Value, Error> {
        no_form()
    }

    fn deserialize_map<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        no_form()
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        no_form()
    }

    forward_to_deserialize_any! { char str string identifier ignored_any }
}

/// The bytes of a body, one by one.
struct Bytewise<'de>(&'de [u8]);

impl<'de> SeqAccess<'de> for Bytewise<'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        let Some((&byte, rest)) = self.0.split_first() else {
            return Ok(None);
        };
        self.0 = rest;
        seed.deserialize(Byte(byte)).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.0.len())
    }
}

/// An element of a `Vec<u8>`. A list of any other type cannot be decoded from such elements.
struct Byte(u8);

impl<'de> Deserializer<'de> for Byte {
    type Error = Error;

    fn deserialize_u8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_u8(self.0)
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        no_form()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}
