"""Operations on the tables of the control database: plain functions of a connection, one file per noun.

Each is atomic because its caller runs it in the writer's thread, or reads with it in one statement.
"""
