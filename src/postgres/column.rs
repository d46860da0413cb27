//! How our types stand in PostgreSQL's binary format.
//!
//! A payload goes in and out as the bytes that were sent: type json keeps text as it is, so nothing
//! here parses or prints JSON.

use std::error::Error;

use bytes::{BufMut as _, BytesMut};
use pghc_api::chain::{Digest, LinkHash};
use pghc_api::time::Micros;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

type Failure = Box<dyn Error + Sync + Send>;

/// Microseconds from the Unix epoch to 2000-01-01, where PostgreSQL counts from.
pub(super) const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// A column holds another type than pghc made it with, or a null where none may be: the schema was
/// changed by hand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{column} is not as pghc made it: it holds {found}; the schema was changed by hand: change it \
     back, then restart the nodes of this zone"
)]
pub struct WrongColumn {
    /// Table and column.
    pub column: &'static str,
    /// The type that is there instead.
    pub found: String,
}

/// The value of a column, which others may have changed since pghc made it. `column` names it.
pub(super) fn get<'a, T: FromSql<'a>>(
    row: &'a Row,
    at: usize,
    column: &'static str,
) -> Result<T, WrongColumn> {
    row.try_get(at).map_err(|_| {
        let kind = row.columns().get(at).map_or("nothing", |column| column.type_().name());
        WrongColumn { column, found: format!("{kind}, or what cannot be read as such") }
    })
}

/// A timestamptz. Infinities become the ends of the range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Timestamp(pub(super) Micros);

impl ToSql for Timestamp {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Failure> {
        let micros = self.0.0.checked_sub(POSTGRES_EPOCH).ok_or("the time is out of range")?;
        out.put_i64(micros);
        Ok(IsNull::No)
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::TIMESTAMPTZ
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Timestamp {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Failure> {
        let micros = i64::from_be_bytes(raw.try_into()?);
        Ok(Self(Micros(micros.saturating_add(POSTGRES_EPOCH))))
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::TIMESTAMPTZ
    }
}

/// A char(32) that holds a hash as 32 lower-case hex digits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hex(pub(super) LinkHash);

impl ToSql for Hex {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Failure> {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        for byte in self.0.0 {
            out.put_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
        Ok(IsNull::No)
    }

    fn accepts(kind: &Type) -> bool {
        matches!(*kind, Type::BPCHAR | Type::TEXT)
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Hex {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Failure> {
        Ok(Self(std::str::from_utf8(raw)?.parse()?))
    }

    fn accepts(kind: &Type) -> bool {
        matches!(*kind, Type::BPCHAR | Type::TEXT)
    }
}

/// A bytea of 32 bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bytes32(pub(super) Digest);

impl ToSql for Bytes32 {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Failure> {
        out.put_slice(&self.0.0);
        Ok(IsNull::No)
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::BYTEA
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Bytes32 {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Failure> {
        Ok(Self(Digest(raw.try_into()?)))
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::BYTEA
    }
}

/// The text of a JSON value, untouched.
#[derive(Debug, Clone, Copy)]
pub(super) struct JsonText<'a>(pub(super) &'a str);

impl ToSql for JsonText<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Failure> {
        out.put_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::JSON
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for JsonText<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Failure> {
        Ok(Self(std::str::from_utf8(raw)?))
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::JSON
    }
}
