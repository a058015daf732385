"""The embedded Redis is private and forgets."""

import stat
from pathlib import Path
from urllib.parse import unquote, urlsplit

import redis

from devserver.embedded_redis import EmbeddedRedis


def _socket(server: EmbeddedRedis) -> Path:
    return Path(unquote(urlsplit(server.url).path))


def test_only_this_user_reaches_it_and_it_leaves_no_data(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path / "with space")
    server.start()
    try:
        assert stat.S_IMODE(_socket(server).stat().st_mode) == 0o600
        with redis.Redis.from_url(server.url) as client:
            client.set("job", "1")
            assert client.get("job") == b"1"
            assert client.config_get("port")["port"] == "0"
    finally:
        server.stop()
    assert [path.name for path in (tmp_path / "with space").iterdir()] in ([], ["redis.log"])


def test_a_folder_too_deep_for_a_socket_is_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 20) / ("deeper" * 10)
    server = EmbeddedRedis(folder)
    server.start()
    try:
        assert folder not in _socket(server).parents
        with redis.Redis.from_url(server.url) as client:
            assert client.ping()
    finally:
        server.stop()
    assert not _socket(server).parent.exists()
