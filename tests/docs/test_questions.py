"""The questions to the database that pages ask are asked."""

import re

import pytest

from dbbbatch.database import connect
from tests.support.scripts import TOP


@pytest.mark.usefixtures("database")
def test_each_question_of_a_page_is_understood() -> None:
    asked = 0
    for page in ("monitoring.md", "ingests.md", "upgrading.md"):
        blocks = re.findall(r"```sql\n(.*?)```", (TOP / "docs" / page).read_text(), re.DOTALL)
        for statement in re.sub(r"--.*", "", "".join(blocks)).split(";"):
            if statement.strip():
                connect.execute(statement).fetchall()
                asked += 1
    assert asked == 10
