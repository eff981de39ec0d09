//! `faregate pay`.
