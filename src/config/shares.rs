//! What follows from the settings of a section.

use crate::config::sections::{LimitSettings, TokenSettings};

impl LimitSettings {
    /// Channels that only clients have used, of `channels_max`: at least one.
    pub fn client_channels_max(&self, channels_max: usize) -> usize {
        let share = channels_max as u128 * u128::from(self.client_channels_percent) / 100;
        usize::try_from(share).unwrap_or(usize::MAX).max(1)
    }
}

impl TokenSettings {
    /// Whether any token can be valid.
    pub fn has_keys(&self) -> bool {
        let TokenSettings { hmac_secret, hmac_secrets, .. } = self;
        let TokenSettings { rsa_public_key, ecdsa_public_key, eddsa_public_key, jwks_url, .. } = self;
        let public = [rsa_public_key, ecdsa_public_key, eddsa_public_key, jwks_url];
        hmac_secret.is_some() || !hmac_secrets.is_empty() || public.into_iter().any(Option::is_some)
    }
}
