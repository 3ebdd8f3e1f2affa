//! C-G1, C-G3: what goes in comes out, whatever gRPC library is on either side.

use crate::services::{Echo, python_client};

/// The services of the tests are right themselves, so that a failure behind relays is the relays'.
mod without_relay {
    use super::*;

    #[tokio::test]
    async fn grpcio_finds_nothing_wrong_with_tonic() {
        let echo = Echo::start();
        assert_eq!(python_client(echo.address()).await, Vec::<String>::new());
    }
}
