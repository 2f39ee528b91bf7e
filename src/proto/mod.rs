pub mod centrifuge;
