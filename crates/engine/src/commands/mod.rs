//! What each command asks for and how it is carried out.

pub(crate) mod action;
pub(crate) mod admin;
pub(crate) mod ata;
pub(crate) mod choice;
pub(crate) mod discovery;
pub(crate) mod dispatch;
pub(crate) mod duplicates;
pub(crate) mod mask;
pub(crate) mod operation;
pub(crate) mod query;
pub(crate) mod reserve;
